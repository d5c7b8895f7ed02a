"""Probe tasks: rows against the published protocol, targets worked out again by other means, and the figure without memory by simulation."""

import itertools
import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from hflab.errors import UserError
from hflab.laboratory.probe_tasks import PROBES, WITH_ITEMS, probe_named
from hflab.laboratory.probes import IGNORED

T, B = 12, 64


def rows_of(name, length=T, batch_size=B, seed=0, num_items=None):
    return probe_named(name, num_items).batch(np.random.default_rng(seed), length=length, batch_size=batch_size)


@pytest.mark.parametrize("name", PROBES)
def test_what_every_task_promises(name):
    probe, batch = PROBES[name], rows_of(name)
    assert batch.inputs.shape[:2] == batch.targets.shape == batch.scored.shape
    assert batch.scored.dtype == bool
    assert batch.scored.any(axis=1).all()
    if probe.num_features is None:
        assert batch.inputs.dtype == batch.targets.dtype == np.int64
        assert batch.inputs.min() >= 0
        assert batch.inputs.max() < probe.num_inputs
        learnt = batch.targets[batch.targets != IGNORED]
        assert learnt.min() >= 0
        assert learnt.max() < probe.num_outputs
        assert (batch.targets[batch.scored] != IGNORED).all()
    else:
        assert batch.inputs.shape[2] == probe.num_features
        assert batch.inputs.dtype == batch.targets.dtype == np.float32
    assert probe.summary


@pytest.mark.parametrize("name", PROBES)
def test_rows_follow_from_the_seed(name):
    first, again, other = rows_of(name), rows_of(name), rows_of(name, seed=1)
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not np.array_equal(first.inputs, other.inputs)


@pytest.mark.parametrize("name", PROBES)
def test_the_shortest_and_long_rows_are_made(name):
    shortest = PROBES[name].shortest
    assert rows_of(name, length=shortest).scored.any()
    assert rows_of(name, length=100).inputs.shape[1] >= 100


def test_adding():
    batch = rows_of("adding", batch_size=2000)
    numbers, marks = batch.inputs[..., 0], batch.inputs[..., 1]
    assert batch.inputs.shape == (2000, T, 2)
    assert set(np.unique(marks)) == {0, 1}
    assert (marks.sum(axis=1) == 2).all()
    assert 0 <= numbers.min() < numbers.max() < 1
    for number, mark, target in zip(numbers, marks, batch.targets, strict=True):
        first, second = np.flatnonzero(mark)
        assert target[-1] == pytest.approx(number[first] + number[second])
    assert (batch.scored.sum(axis=1) == 1).all()
    assert batch.scored[:, -1].all()
    pairs = Counter(tuple(np.flatnonzero(mark)) for mark in marks)
    assert len(pairs) == math.comb(T, 2)  # each pair of places
    always_one = ((1 - batch.targets[:, -1]) ** 2).mean()
    assert always_one == pytest.approx(1 / 6, abs=0.02)


def test_copying():
    batch = rows_of("copying")
    assert batch.inputs.shape == (B, T + 20)
    assert (batch.inputs[:, :10] < 8).all()
    assert (batch.inputs[:, 10 : 10 + T - 1] == 8).all()
    assert (batch.inputs[:, 10 + T - 1] == 9).all()
    assert (batch.inputs[:, 10 + T :] == 8).all()
    assert (batch.targets[:, : T + 10] == 8).all()
    assert np.array_equal(batch.targets[:, -10:], batch.inputs[:, :10])
    assert np.array_equal(np.flatnonzero(batch.scored[0]), np.arange(T + 10, T + 20))


def test_delayed_recall():
    batch = rows_of("delayed_recall")
    x, y, begin, end = 0, 1, 2, 3
    assert batch.inputs.shape == (B, T + 3)
    assert (batch.inputs[:, 0] == begin).all()
    assert set(batch.inputs[:, 1]) == {x, y}
    assert (batch.inputs[:, 2:-1] > end).all()
    assert (batch.inputs[:, -1] == end).all()
    assert np.array_equal(batch.targets[:, -1], batch.inputs[:, 1])
    assert (batch.targets[:, :-1] == IGNORED).all()


def test_associative_recall():
    batch, question = rows_of("associative_recall"), 10
    assert batch.inputs.shape == (B, 8 + T + 1)
    for row, target in zip(batch.inputs, batch.targets, strict=True):
        letters, digits = row[:8:2], row[1:8:2]
        assert (letters > question).all()
        assert len(set(letters)) == 4
        assert (digits < 10).all()
        assert (row[8:-1] == question).all()
        assert target[-1] == dict(zip(letters, digits, strict=True))[row[-1]]
    asked = Counter(list(row[:8:2]).index(row[-1]) for row in rows_of("associative_recall", batch_size=2000).inputs)
    assert all(400 < count < 600 for count in asked.values())


def test_selective_copying():
    batch = rows_of("selective_copying", num_items=5)
    blank, marker = 14, 15
    assert batch.inputs.shape == (B, T + 10)
    for row, target in zip(batch.inputs, batch.targets, strict=True):
        symbols = [token for token in row[: T + 5] if token != blank]
        assert len(symbols) == 5
        assert max(symbols) < blank
        assert (row[-5:] == marker).all()
        assert list(target[-5:]) == symbols
    places = {tuple(np.flatnonzero(row[: T + 5] != blank)) for row in batch.inputs}
    assert len(places) > B // 2
    assert PROBES["selective_copying"].num_items == 16


def test_parity():
    batch = rows_of("parity")
    assert np.array_equal(batch.targets, np.cumsum(batch.inputs, axis=1) % 2)
    assert batch.scored.all()


def test_cycle_navigation():
    batch = rows_of("cycle_navigation")
    moves = np.array([0, 1, -1])[batch.inputs]
    assert np.array_equal(batch.targets, np.cumsum(moves, axis=1) % 5)


def test_permutations():
    batch = rows_of("permutations")
    orders = sorted(itertools.permutations("abc"))
    for row, targets in zip(batch.inputs, batch.targets, strict=True):
        things = "abc"
        for move, target in zip(row, targets, strict=True):
            places = ["abc".index(thing) for thing in orders[move]]
            things = "".join(things[place] for place in places)
            assert things == "".join(orders[target])
    assert PROBES["permutations"].transitions.shape == (6, 6)


def test_bracket_depth():
    batch = rows_of("bracket_depth", length=300)
    depth = np.cumsum(np.where(batch.inputs == 0, 1, -1), axis=1)
    assert np.array_equal(batch.targets, depth)
    assert depth.min() == 0
    assert depth.max() == 8
    inner = (depth[:, :-1] > 0) & (depth[:, :-1] < 8)
    assert batch.inputs[:, 1:][inner].mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("length", [2, 7])
@pytest.mark.parametrize("name", PROBES)
def test_the_figure_without_memory_is_the_best_that_position_and_token_allow(name, length):
    """The best answer to each position and token is learnt from many rows and scored on others."""
    probe = probe_named(name, num_items=2)
    known, new = (probe.batch(np.random.default_rng(seed), length=length, batch_size=30_000) for seed in range(2))
    if probe.figure == "squared error":
        # the best answer: what is expected of the other number, and of this one what is known
        number, mark = new.inputs[:, -1].T
        found = ((np.where(mark == 1, number + 0.5, 1.0) - new.targets[:, -1]) ** 2).mean()
    else:
        seen = defaultdict(Counter)
        for token, position, target in _scored(known):
            seen[token, position][target] += 1
        best = {key: counts.most_common(1)[0][0] for key, counts in seen.items()}
        found = np.mean([best.get((token, position)) == target for token, position, target in _scored(new)])
    assert found == pytest.approx(probe.memoryless(length), abs=0.012)


def _scored(batch):
    rows, positions = np.nonzero(batch.scored)
    return zip(batch.inputs[rows, positions].tolist(), positions.tolist(), batch.targets[rows, positions].tolist(), strict=True)


def test_published_baselines():
    assert PROBES["adding"].memoryless(10_000) == pytest.approx(1 / 6, abs=1e-4)  # Le et al.: always answer 1
    copying = PROBES["copying"]
    # Arjovsky et al.: blanks are certain, the last ten symbols are drawn from eight
    assert 10 * -math.log(copying.memoryless(100)) / (100 + 20) == pytest.approx(10 * math.log(8) / 120)
    assert PROBES["parity"].memoryless(10) == pytest.approx((1 + 9 * 0.5) / 10)


def test_solved():
    assert PROBES["parity"].is_solved(0.99)
    assert not PROBES["parity"].is_solved(0.98)
    assert PROBES["adding"].is_solved(0.01)
    assert not PROBES["adding"].is_solved(0.02)
    assert PROBES["parity"].ends_training(0.996)
    assert not PROBES["parity"].ends_training(0.994)
    assert PROBES["adding"].ends_training(0.004)
    assert not PROBES["adding"].ends_training(0.006)


def test_mistakes():
    with pytest.raises(UserError, match=r"'pariti'.*Did you mean 'parity'"):
        probe_named("pariti")
    for wrong in (0, 27):
        with pytest.raises(UserError, match="from 1 to 26"):
            probe_named("copying", wrong)
    assert probe_named("copying", 3).num_items == 3
    assert probe_named("parity", 3) == PROBES["parity"]
    assert set(WITH_ITEMS) == {"copying", "associative_recall", "selective_copying"}
