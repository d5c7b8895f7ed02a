"""Held-out rows shared out over processes, each counted once, and their results brought together on every process.

Knows nothing about what the rows are or what is computed of them.
"""

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from ..data.example_batches import ExampleBatch, ExampleBatches
from ..data.example_encoding import EncodedExamples

Result = TypeVar("Result")


def share_of_process(batch_size: int, accelerator: Accelerator | None) -> tuple[slice, bool]:
    """Which rows of a batch this process reads, and whether they count.

    Where there are more processes than rows, one without a row reads along with the first and counts nothing: a model that is spread over the
    processes needs them all in every forward.
    """
    index, num_processes = (accelerator.process_index, accelerator.num_processes) if accelerator is not None else (0, 1)
    share = slice(batch_size * index // num_processes, batch_size * (index + 1) // num_processes)
    return (share, True) if share.start < share.stop else (slice(0, 1), False)


def batches_of_process(
    examples: EncodedExamples, *, batch_size: int, pad_token_id: int, accelerator: Accelerator | None
) -> Iterator[tuple[ExampleBatch, list[tuple[int, int]]]]:
    """The share of each batch that is this process's, and the (place in the share, row) pairs of it that count."""
    batches = ExampleBatches(examples, batch_size=batch_size, pad_token_id=pad_token_id, shuffle=False)
    share, counts = share_of_process(batch_size, accelerator)
    for step in range(batches.steps_per_epoch):
        batch = batches.batch(step, share)
        yield batch, [(place, int(row)) for place, row in enumerate(batch.rows) if counts and row >= 0]


def gather_rows(found: dict[int, Result], accelerator: Accelerator | None) -> list[Result]:
    """The results of all rows of all processes, in the order of the rows."""
    pairs = list(found.items())
    if accelerator is not None and accelerator.num_processes > 1:
        pairs = gather_object(pairs)
    return [result for _, result in sorted(pairs, key=lambda pair: pair[0])]


def evenly_drawn(num_rows: int, most: int | None) -> np.ndarray:
    """At most `most` of `num_rows` rows, evenly spaced, so that sorted rows are drawn fairly; (n,) int64, ascending."""
    if most is None or most >= num_rows:
        return np.arange(num_rows)
    return np.arange(most) * num_rows // most


def take_rows(examples: EncodedExamples, rows: np.ndarray) -> EncodedExamples:
    """The given rows of `examples`."""
    return EncodedExamples([examples.inputs[row] for row in rows], [examples.labels[row] for row in rows], examples.num_cut)
