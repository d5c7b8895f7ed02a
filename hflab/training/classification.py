"""Classification of texts, and of the words in them. What a `Task` is stands in `task.py`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..data.example_batches import ExampleBatch
from ..evaluation.classification_evaluator import ClassResults, evaluate_classifier
from ..evaluation.classification_metrics import CLASSIFICATION_METRICS
from ..evaluation.report import Evaluated, EvaluatedRow
from ..evaluation.sharing import take_rows
from .labelled_examples import ExampleTask, one_row
from .task import mean_over_step

PROMPT_CHARACTERS = 80  # of the example that a card shows


class Classification(ExampleTask):
    """A classifier with one class for each label."""

    classifies = True

    @property
    def label_names(self) -> list[str]:
        """The classes, in the order of their numbers."""
        return self.prepared.corpus.label_names

    @property
    def prompt(self) -> str:
        """The recipe's sample prompt, or the first words of a held-out input."""
        words, length = super().prompt.split(), 0
        for number, word in enumerate(words):
            length += len(word) + 1
            if length > PROMPT_CHARACTERS and number:
                return " ".join(words[:number])
        return " ".join(words)

    def loss(self, model: nn.Module, batch: ExampleBatch, carried: Any) -> tuple[Tensor, Any]:
        """Nats of this share's labels divided by those of the whole step."""
        batch = batch.to(next(model.parameters()).device)
        outputs = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        return mean_over_step(outputs.logits, batch.labels, batch.num_tokens), None

    def evaluate(self, model: nn.Module, accelerator: Accelerator, split: str, *, in_full: bool) -> Evaluated:
        """Every row is read once."""
        rows = self.rows_to_evaluate(split, in_full=in_full)
        results = evaluate_classifier(
            model,
            take_rows(self.prepared.splits[split], rows),
            self.label_names,
            batch_size=self.recipe.evaluation.batch_size,
            pad_token_id=self.pad_token_id,
            accelerator=accelerator,
        )
        figures = {name: metric.compute(results.outputs) for name, metric in CLASSIFICATION_METRICS.items()}
        counts = {"num_rows": len(rows), "num_labels": len(results.outputs.labels)}
        texts = [self.input_text(row) for row in self.prepared.corpus.splits[split].select(rows)]
        return Evaluated({**figures, **counts}, self._report(texts, results), "nats per label")

    def _report(self, texts: Sequence[str], results: ClassResults) -> list[EvaluatedRow]:
        """Rows with the names of their classes; a row without labels has no error."""
        outputs = results.outputs
        per_row = zip(texts, *(results.by_row(values) for values in (outputs.predictions, outputs.labels, outputs.row_nats)), strict=True)
        return [
            EvaluatedRow(text, self._names(predicted), self._names(expected), float(nats.mean()) if len(nats) else 0.0)
            for text, predicted, expected, nats in per_row
        ]

    def _names(self, numbers: np.ndarray) -> str:
        return " ".join(self.label_names[number] for number in numbers)

    def preview_row(self, model: PreTrainedModel, row: int) -> str:
        """The beginning of the input, the prediction and the target."""
        split = self._shown_split
        example = one_row(self.prepared.splits[split], row)
        if not (example.labels[0] >= 0).any():  # a row of words that were all cut off
            return ""
        results = evaluate_classifier(model, example, self.label_names, batch_size=1, pad_token_id=self.pad_token_id)
        text = " ".join(self.input_text(self.prepared.corpus.splits[split][row]).split())
        shortened = text if len(text) <= 80 else f"{text[:79]}…"
        return f"{shortened} → {self._names(results.outputs.predictions)} ({self._names(results.outputs.labels)})"


class TextClassification(Classification):
    """A class for each text."""

    name = "text_classification"
    head = "ForSequenceClassification"

    @staticmethod
    def input_text(row: dict[str, Any]) -> str:
        """The text."""
        return str(row["text"])


class TokenClassification(Classification):
    """A class for each word; a word of several tokens is judged by its first."""

    name = "token_classification"
    head = "ForTokenClassification"

    @staticmethod
    def input_text(row: dict[str, Any]) -> str:
        """The words."""
        return " ".join(row["tokens"])
