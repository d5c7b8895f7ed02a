import itertools

import numpy as np
import pytest

from hflab.data.row_order import RowOrder
from hflab.errors import UserError

HOW = {"shuffled": {}, "near": {"nearness": 0.1}, "in order": {"shuffle": False}}


def lengths_of(num_rows, seed=0):
    return np.random.default_rng(seed).integers(1, 500, num_rows)


def epoch_of(order, epoch=0):
    return [order.rows_of(step) for step in range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)]


def padding(lengths, batches):
    """Share of the batches that fills up short rows."""
    return 1 - sum(lengths[rows].sum() for rows in batches) / sum(len(rows) * lengths[rows].max() for rows in batches)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("num_rows", "batch_size"), [(1, 1), (1, 4), (5, 8), (64, 8), (67, 8), (1000, 16), (5000, 3)])
def test_an_epoch_has_every_row_once(how, num_rows, batch_size):
    order = RowOrder(lengths_of(num_rows), batch_size=batch_size, seed=1, **HOW[how])
    assert order.steps_per_epoch == -(-num_rows // batch_size)
    for epoch in (0, 3):
        batches = epoch_of(order, epoch)
        assert sorted(np.concatenate(batches).tolist()) == list(range(num_rows))
        assert [len(rows) for rows in batches[:-1]] == [batch_size] * (len(batches) - 1)
        assert len(batches[-1]) == num_rows - batch_size * (len(batches) - 1)


@pytest.mark.parametrize("how", HOW)
def test_the_order_depends_on_the_step_alone(how):
    lengths = lengths_of(150)
    wandering, fresh = (RowOrder(lengths, batch_size=8, seed=3, **HOW[how]) for _ in range(2))
    ordered = [fresh.rows_of(step).tolist() for step in range(60)]
    for step in np.random.default_rng(1).permutation(60).tolist():
        assert wandering.rows_of(step).tolist() == ordered[step]


@pytest.mark.parametrize("how", ["shuffled", "near"])
@pytest.mark.parametrize("num_rows", [200, 3000])
def test_other_rows_meet_in_every_epoch_and_with_every_seed(how, num_rows):
    lengths = lengths_of(num_rows)
    met = [
        {frozenset(rows.tolist()) for rows in epoch_of(RowOrder(lengths, batch_size=8, seed=seed, **HOW[how]), epoch)}
        for seed, epoch in itertools.product((1, 2), (0, 1))
    ]
    for one, other in itertools.combinations(met, 2):
        assert len(one & other) <= (0.02 if how == "shuffled" else 0.25) * len(one)  # the longest of few rows have few neighbours


def test_rows_of_about_one_length_meet():
    lengths = lengths_of(8000)
    shares = {how: padding(lengths, epoch_of(RowOrder(lengths, batch_size=16, **keys))) for how, keys in HOW.items()}
    assert shares["shuffled"] < 0.06
    assert shares["near"] < 0.15
    assert shares["in order"] < 0.01
    assert padding(lengths, np.random.default_rng(0).permutation(8000).reshape(-1, 16)) > 0.4  # without any order


@pytest.mark.parametrize("how", ["shuffled", "near"])
def test_lengths_of_batches_come_in_no_order(how):
    lengths = lengths_of(4000)
    longest = np.array([lengths[rows].max() for rows in epoch_of(RowOrder(lengths, batch_size=8, **HOW[how]))])
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.2
    assert abs(np.corrcoef(longest[1:], longest[:-1])[0, 1]) < 0.2


def test_without_shuffling_the_longest_come_first_in_every_epoch():
    lengths = lengths_of(300)
    order = RowOrder(lengths, batch_size=7, seed=5, shuffle=False)
    rows = np.concatenate(epoch_of(order))
    assert lengths[rows].tolist() == sorted(lengths.tolist(), reverse=True)
    assert rows.tolist() == np.concatenate(epoch_of(order, 4)).tolist()
    assert rows.tolist() == np.concatenate(epoch_of(RowOrder(lengths, batch_size=7, seed=6, shuffle=False))).tolist()


def test_rows_of_equal_length_are_sorted_by_the_next():
    pairs = np.array([[3, 1], [3, 9], [1, 5], [3, 4]])
    assert RowOrder(pairs, batch_size=4, shuffle=False).rows_of(0).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize("how", HOW)
def test_rows_of_one_length_are_shuffled_all_the_same(how):
    order = RowOrder(np.full(64, 7), batch_size=8, seed=1, **HOW[how])
    assert (np.concatenate(epoch_of(order)).tolist() == list(range(64))) == (how == "in order")


def test_no_rows_are_refused():
    with pytest.raises(UserError, match="no rows to make batches of; give another split or more data"):
        RowOrder(np.zeros(0), batch_size=4)
