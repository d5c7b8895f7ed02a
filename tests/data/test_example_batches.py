import itertools

import numpy as np
import pytest
import torch

from hflab.data.example_batches import ExampleBatches
from hflab.data.example_encoding import EncodedExamples
from hflab.errors import UserError

PAD = 0
KINDS = ["pairs", "texts", "words"]


def made(kind, num_rows, seed=0, longest=30):
    """Rows whose tokens say which row they are of: token = row number + 1."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, longest, num_rows)
    inputs = [np.full(length, row + 1) for row, length in enumerate(lengths)]
    if kind == "texts":
        labels = [np.asarray(row % 3) for row in range(num_rows)]
    elif kind == "words":
        labels = [np.where(np.arange(length) % 2, -100, row) for row, length in enumerate(lengths)]
    else:
        targets = np.maximum(1, lengths // 2 + generator.integers(0, 4, num_rows))
        labels = [np.full(length, row) for row, length in enumerate(targets)]
    return EncodedExamples(inputs, labels, 0)


def make(examples, batch_size=8, seed=3, **keys):
    return ExampleBatches(examples, batch_size=batch_size, pad_token_id=PAD, seed=seed, **keys)


def whole(batches, step):
    return batches.batch(step, slice(0, batches.batch_size))


def epoch_of(batches, epoch=0):
    return [whole(batches, step) for step in range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("num_rows", "batch_size"), [(1, 1), (5, 8), (64, 8), (67, 8), (1000, 16)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_has_every_row_once_as_it_is_and_padding_counts_nowhere(kind, num_rows, batch_size, shuffle):
    examples = made(kind, num_rows)
    read, counted = [], 0
    for batch in epoch_of(make(examples, batch_size, shuffle=shuffle), epoch=2):
        assert batch.input_ids.shape == batch.attention_mask.shape
        assert len(batch.input_ids) == len(batch.labels) == len(batch.rows) == batch_size
        assert batch.num_tokens == (batch.labels != -100).sum()
        assert (batch.attention_mask.sum(dim=1) > 0).all()
        assert int(batch.attention_mask.sum(dim=1).max()) == batch.input_ids.shape[1]
        for ids, mask, labels, row in zip(batch.input_ids, batch.attention_mask.bool(), batch.labels, batch.rows.tolist(), strict=True):
            assert (ids[~mask] == PAD).all()
            assert not mask.diff().any() or not mask[-1]  # on the right
            if row < 0:
                assert (labels == -100).all()
                continue
            read.append(row)
            assert ids[mask].tolist() == examples.inputs[row].tolist()
            expected = examples.labels[row]
            assert labels.flatten()[: expected.size].tolist() == expected.flatten().tolist()
            assert (labels.flatten()[expected.size :] == -100).all()
        counted += batch.num_tokens
    assert sorted(read) == list(range(num_rows))
    assert counted == sum(int((labels != -100).sum()) for labels in examples.labels)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shares", [(4, 4), (2, 2, 2, 2), (1, 3, 4), (8, 0)])
def test_shares_of_processes_and_accumulation_make_up_the_batch(kind, shares):
    batches = make(made(kind, 61))
    edges = list(itertools.accumulate(shares, initial=0))
    for step in range(2 * batches.steps_per_epoch):
        expected = whole(batches, step)
        parts = [batches.batch(step, slice(start, stop)) for start, stop in itertools.pairwise(edges)]
        for name in ("input_ids", "attention_mask", "labels"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(expected, name))
        assert np.concatenate([part.rows for part in parts]).tolist() == expected.rows.tolist()
        assert {part.num_tokens for part in parts} == {expected.num_tokens}


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_batch_depends_on_its_step_alone(shuffle):
    examples = made("pairs", 150)
    wandering, fresh = make(examples, shuffle=shuffle), make(examples, shuffle=shuffle)
    ordered = [whole(fresh, step) for step in range(60)]
    for step in np.random.default_rng(1).permutation(60).tolist():
        batch = whole(wandering, step)
        assert torch.equal(batch.input_ids, ordered[step].input_ids)
        assert torch.equal(batch.labels, ordered[step].labels)


@pytest.mark.parametrize("num_rows", [100, 3000])
def test_other_rows_meet_in_every_epoch_and_with_every_seed(num_rows):
    examples = made("pairs", num_rows)
    met = [
        {frozenset(batch.rows.tolist()) for batch in epoch_of(make(examples, seed=seed), epoch)} for seed, epoch in itertools.product((1, 2), (0, 1))
    ]
    for one, other in itertools.combinations(met, 2):
        assert len(one & other) <= 0.02 * len(one)


def test_little_of_a_batch_is_padding():
    examples = made("pairs", 8000, longest=100)
    share = {}
    for name, batches in {"bucketed": make(examples, 32), "sorted": make(examples, 32, shuffle=False)}.items():
        epoch = epoch_of(batches)
        share[name] = 1 - sum(int(batch.attention_mask.sum()) for batch in epoch) / sum(batch.attention_mask.numel() for batch in epoch)
        of_labels = 1 - sum(batch.num_tokens for batch in epoch) / sum(batch.labels.numel() for batch in epoch)
        assert of_labels < 0.12
    shuffled = np.random.default_rng(0).permutation(8000).reshape(-1, 32)
    lengths = np.array([len(row) for row in examples.inputs])[shuffled]
    assert 1 - lengths.sum() / (lengths.max(axis=1) * 32).sum() > 0.4  # without buckets
    assert share["bucketed"] < 0.06
    assert share["sorted"] < 0.01


def test_lengths_come_in_no_order():
    lengths = np.array([batch.input_ids.shape[1] for batch in epoch_of(make(made("texts", 4000)))])
    assert abs(np.corrcoef(lengths, np.arange(len(lengths)))[0, 1]) < 0.2
    assert abs(np.corrcoef(lengths[1:], lengths[:-1])[0, 1]) < 0.2


def test_without_shuffling_the_longest_come_first():
    lengths = [batch.input_ids.shape[1] for batch in epoch_of(make(made("texts", 300), shuffle=False))]
    assert lengths == sorted(lengths, reverse=True)


def test_a_batch_moves_to_a_device_and_no_rows_are_refused():
    batch = whole(make(made("pairs", 9)), 0).to("meta")
    assert {batch.input_ids.device.type, batch.attention_mask.device.type, batch.labels.device.type} == {"meta"}
    with pytest.raises(UserError, match="no rows"):
        make(EncodedExamples([], [], 0))
