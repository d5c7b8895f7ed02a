"""What a classifier, of texts or of the words in them, thinks of held-out rows; each row counts once, on any number of processes.

    results = evaluate_classifier(model, examples, names, batch_size=64, pad_token_id=0)
    figures = {name: metric.compute(results.outputs) for name, metric in CLASSIFICATION_METRICS.items()}

This module knows nothing about recipes or training. Shapes: `B` rows, `T` tokens, `C` classes, `N` labels of all rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from ..data.example_encoding import EncodedExamples
from .classification_metrics import IGNORED, ClassOutputs
from .model_properties import evaluation_mode
from .sharing import batches_of_process, gather_rows


@dataclass(frozen=True)
class ClassResults:
    """The labels of all rows end to end, and how many of them each row has."""

    outputs: ClassOutputs
    labels_of_row: list[int]

    def by_row(self, values: np.ndarray) -> list[np.ndarray]:
        """Cut (N,) values of labels into those of each row."""
        return np.split(values, np.cumsum(self.labels_of_row)[:-1])


def evaluate_classifier(
    model: nn.Module,
    examples: EncodedExamples,
    names: Sequence[str],
    *,
    batch_size: int,
    pad_token_id: int,
    accelerator: Accelerator | None = None,
) -> ClassResults:
    """Score all rows.

    Args:
        model: classifier of rows, or of tokens, on the device it is to run on; its mode and the random number generators stay as they are.
        examples: the rows, each with a class, or with a class or -100 of each token.
        names: of the classes.
        batch_size: rows read at a time, over all processes.
        pad_token_id: fills rows on the right.
        accelerator: shares the rows out over its processes, all of which must call, and all of which get the results of all.
    """
    device = next(model.parameters()).device
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    with evaluation_mode(model):
        for batch, counted in batches_of_process(examples, batch_size=batch_size, pad_token_id=pad_token_id, accelerator=accelerator):
            logits = model(input_ids=batch.input_ids.to(device), attention_mask=batch.attention_mask.to(device)).logits
            scores = torch.log_softmax(logits.float(), dim=-1).cpu().numpy()
            labels = batch.labels.numpy()
            for place, row in counted:
                of_row, of_label = np.atleast_1d(labels[place]), scores[place].reshape(-1, scores.shape[-1])
                kept = of_row != IGNORED
                found[row] = (of_label[kept], of_row[kept])
    results = gather_rows(found, accelerator)
    outputs = ClassOutputs(np.concatenate([scores for scores, _ in results]), np.concatenate([labels for _, labels in results]), list(names))
    return ClassResults(outputs, [len(labels) for _, labels in results])
