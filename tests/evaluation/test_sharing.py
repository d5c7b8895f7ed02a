"""Held-out rows, each read once by one of several processes."""

from types import SimpleNamespace

import numpy as np
import pytest

from hflab.data.example_encoding import EncodedExamples
from hflab.evaluation.sharing import batches_of_process, evenly_drawn, share_of_process, take_rows


def examples(count):
    draw = np.random.default_rng(0)
    inputs = [draw.integers(1, 9, size=draw.integers(1, 7)) for _ in range(count)]
    return EncodedExamples(inputs, [np.asarray(row % 3) for row in range(count)], 0)


@pytest.mark.parametrize("num_processes", [1, 2, 3, 5])
@pytest.mark.parametrize(("count", "batch_size"), [(1, 4), (7, 3), (12, 4), (13, 8)])
def test_every_row_is_counted_once_and_is_itself(num_processes, count, batch_size):
    given, seen = examples(count), []
    for index in range(num_processes):
        process = SimpleNamespace(process_index=index, num_processes=num_processes)
        for batch, counted in batches_of_process(given, batch_size=batch_size, pad_token_id=0, accelerator=process):
            for place, row in counted:
                length = int(batch.attention_mask[place].sum())
                assert batch.input_ids[place, :length].tolist() == given.inputs[row].tolist()
                seen.append(row)
    assert sorted(seen) == list(range(count))


def test_a_process_without_rows_reads_along_and_counts_nothing():
    assert share_of_process(1, SimpleNamespace(process_index=0, num_processes=2)) == (slice(0, 1), False)
    assert share_of_process(1, SimpleNamespace(process_index=1, num_processes=2)) == (slice(0, 1), True)
    assert share_of_process(8, None) == (slice(0, 8), True)


@pytest.mark.parametrize(("num_rows", "most", "expected"), [(5, None, [0, 1, 2, 3, 4]), (5, 9, [0, 1, 2, 3, 4]), (10, 3, [0, 3, 6]), (4, 1, [0])])
def test_some_rows_are_drawn_from_all_of_a_split(num_rows, most, expected):
    assert evenly_drawn(num_rows, most).tolist() == expected
    assert len(take_rows(examples(num_rows), np.array(expected))) == len(expected)
