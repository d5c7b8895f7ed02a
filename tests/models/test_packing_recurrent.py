"""Packing against torch's PackedSequence and against its own promises."""

import itertools

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from hflab.models.recurrent.packing_recurrent import pack_all, pack_pieces

B, T = 5, 7


@pytest.fixture
def mask():
    flags = torch.rand(B, T, generator=torch.Generator().manual_seed(0)) < 0.6
    flags[1], flags[2] = False, True
    return flags


@pytest.fixture
def resets():
    return torch.rand(B, T, generator=torch.Generator().manual_seed(1)) < 0.4


def test_order_is_that_of_a_packed_sequence():
    lengths = torch.tensor([3, 7, 1, 5, 6])
    values = torch.randn(B, T, 2)
    packing = pack_pieces(torch.arange(T) < lengths[:, None], None)
    expected = pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
    assert packing.batch_sizes == expected.batch_sizes.tolist()
    assert torch.equal(packing.pack(values), expected.data)
    assert torch.equal(packing.rows, expected.sorted_indices)


def test_unpacking_undoes_packing_and_leaves_zeros_at_padding(mask, resets):
    values = torch.randn(B, T, 2)
    for packing in (pack_pieces(mask, None), pack_pieces(mask, resets)):
        assert torch.equal(packing.unpack(packing.pack(values), T), values * mask[..., None])
    packing = pack_all(B, T, mask.device)
    assert torch.equal(packing.unpack(packing.pack(values), T), values)


def test_pieces_follow_the_rows_and_end_where_the_next_begins(mask, resets):
    packing = pack_pieces(mask, resets)
    places = torch.arange(B * T).view(B, T, 1)
    steps = packing.pack(places).squeeze(1).split(packing.batch_sizes)
    pieces = [[int(step[i]) for step in steps if i < len(step)] for i in range(packing.batch_sizes[0])]
    expected = {}
    for row in range(B):
        current = None
        for t in range(T):
            if mask[row, t]:
                if current is None or resets[row, t]:
                    current = row * T + t
                expected.setdefault(current, []).append(row * T + t)
    assert len(pieces) > B
    assert {piece[0]: piece for piece in pieces} == expected
    lengths = [len(piece) for piece in pieces]
    assert lengths == sorted(lengths, reverse=True)
    flat = packing.pack(places).squeeze(1)
    assert packing.last_of(flat[:, None])[:, 0].tolist() == [piece[-1] for piece in pieces]
    assert packing.fill == mask.sum() / (len(pieces) * max(lengths))


def test_states_come_from_the_row_unless_it_was_reset_and_return_to_it(mask, resets):
    packing = pack_pieces(mask, resets)
    before = torch.arange(1.0, B + 1)[:, None]
    first_tokens = packing.pack(torch.arange(B * T).view(B, T, 1))[: packing.batch_sizes[0], 0]
    begun = packing.begin(before)[:, 0]
    for value, place in zip(begun.tolist(), first_tokens.tolist(), strict=True):
        assert value == (0 if resets.flatten()[place] else place // T + 1)
    seen = packing.last_of(packing.pack(torch.arange(B * T).view(B, T, 1)))
    finished = packing.finish(seen, torch.full((B, 1), -1))[:, 0]
    last_real = [max((row * T + t for t in range(T) if mask[row, t]), default=-1) for row in range(B)]
    assert finished.tolist() == last_real


def test_shift_looks_one_step_back_within_the_piece(mask, resets):
    for packing in (pack_pieces(mask, resets), pack_pieces(mask, None), pack_all(B, T, mask.device)):
        flat = packing.pack(torch.arange(B * T).view(B, T, 1))
        first = -1 - torch.arange(packing.batch_sizes[0])[:, None]
        steps = [first, *flat.split(packing.batch_sizes)]
        expected = torch.cat([before[: len(step)] for before, step in itertools.pairwise(steps)])
        assert torch.equal(packing.shift(flat, first), expected)


def test_grid_puts_padding_at_the_end(mask, resets):
    packing = pack_pieces(mask, resets)
    places, real = packing.grid()
    assert real.sum(0).tolist() == sorted(real.sum(0).tolist(), reverse=True)
    assert torch.equal(places[real], torch.arange(int(mask.sum())))
    assert (real[:-1] | ~real[1:]).all()


def test_no_real_token_is_no_packing():
    assert pack_pieces(torch.zeros(B, T, dtype=torch.bool), None) is None
