"""Batches of encoded examples: a function of the seed and the optimizer step alone, so that a resumed run needs no more than the step.

    batches = ExampleBatches(encoded, batch_size=32, pad_token_id=tokenizer.pad_token_id, seed=1)
    batch = batches.batch(step=0, share=slice(0, 32))

The order of rows is that of `row_order.py`. Padding is on the right. Shapes: `B` rows of a step, `b` of them asked for, `T` tokens of the step's
longest input, `T'` of its longest target. This module knows nothing about models, devices or processes.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .example_encoding import IGNORED_LABEL, EncodedExamples
from .row_order import RowOrder


class ExampleBatch(NamedTuple):
    """The caller's share of a step."""

    input_ids: Tensor
    """(b, T) int64, padded on the right."""
    attention_mask: Tensor
    """(b, T) int64, 1 where there is a token, 0 at padding."""
    labels: Tensor
    """Targets (b, T') of sequence to sequence, classes (b,) of texts, classes (b, T) of tokens; int64, -100 where nothing is to be learnt."""
    rows: np.ndarray
    """(b,) numbers of the rows in their split; -1 for a row that only fills the step and is not to be counted."""
    num_tokens: int
    """Labels that are not -100 in all rows of the step, not only in the caller's: what its loss is divided by."""

    def to(self, device: torch.device | str) -> "ExampleBatch":
        """The batch with its tensors on `device`."""
        return self._replace(input_ids=self.input_ids.to(device), attention_mask=self.attention_mask.to(device), labels=self.labels.to(device))


class ExampleBatches:
    """Shuffled batches of rows of about one length.

    Where the last batch of an epoch has fewer rows, its first row fills it up, with labels of -100: each row is learnt from once, every row
    has tokens to attend to, and the shares of all processes have one shape.

    Args:
        examples: the encoded rows.
        batch_size: B.
        pad_token_id: fills inputs on the right.
        seed: of the order, together with the epoch.
        shuffle: False: rows in the order of their lengths, the same every epoch, the longest first, as evaluation wants them.

    Raises:
        UserError: there are no rows.
    """

    def __init__(self, examples: EncodedExamples, *, batch_size: int, pad_token_id: int, seed: int = 0, shuffle: bool = True) -> None:
        inputs = np.array([len(row) for row in examples.inputs])
        labels = np.array([row.size for row in examples.labels])
        self._rows = RowOrder(np.stack([inputs, labels], axis=1), batch_size=batch_size, seed=seed, shuffle=shuffle)
        self.batch_size, self.steps_per_epoch = batch_size, self._rows.steps_per_epoch
        self._examples, self._pad_token_id = examples, pad_token_id

    def batch(self, step: int, share: slice) -> ExampleBatch:
        """Return the rows `share` of the batch of `step`, counted from 0 over all epochs."""
        rows = self._rows.rows_of(step)
        counted = np.arange(self.batch_size) < len(rows)
        filled = np.concatenate([rows, np.repeat(rows[:1], self.batch_size - len(rows))])
        inputs = [self._examples.inputs[row] for row in filled]
        labels = [self._examples.labels[row] for row in filled]
        longest, longest_label = max(map(len, inputs)), max(row.size for row in labels)
        input_ids = np.full((self.batch_size, longest), self._pad_token_id, dtype=np.int64)
        attention_mask = np.zeros_like(input_ids)
        padded = np.full((self.batch_size, longest_label), IGNORED_LABEL, dtype=np.int64)
        for place, (row, label) in enumerate(zip(inputs, labels, strict=True)):
            input_ids[place, : len(row)], attention_mask[place, : len(row)] = row, 1
            if counted[place]:
                padded[place, : label.size] = label
        if labels[0].ndim == 0:  # one class per row
            padded = padded[:, 0]
        return ExampleBatch(
            input_ids=torch.from_numpy(input_ids[share]),
            attention_mask=torch.from_numpy(attention_mask[share]),
            labels=torch.from_numpy(padded[share]),
            rows=np.where(counted, filled, -1)[share],
            num_tokens=int((padded != IGNORED_LABEL).sum()),
        )
