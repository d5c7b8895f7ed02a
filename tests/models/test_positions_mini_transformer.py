"""Positions: places among real tokens, sinusoids, and rotations that depend on distances only."""

import math

import pytest
import torch

from hflab.models.mini_transformer.positions_mini_transformer import positions_of_tokens, rotate, rotations, sinusoids


@pytest.mark.parametrize("width", [2, 6, 64])
def test_sinusoids_are_the_formula(width):
    positions = torch.tensor([[0, 1, 2, 30], [7, 511, 4096, 0]])
    table = sinusoids(positions, width)
    assert table.shape == (2, 4, width)
    for b, t in ((0, 0), (0, 1), (0, 3), (1, 0), (1, 1), (1, 2)):
        for i in range(width // 2):
            angle = positions[b, t].item() / 10000 ** (2 * i / width)
            assert table[b, t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-3)
            assert table[b, t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-3)


def test_rotation_multiplies_by_a_complex_number():
    torch.manual_seed(0)
    heads, positions, base = torch.randn(2, 3, 5, 8), torch.tensor([[0, 1, 2, 3, 4], [9, 9, 0, 77, 5]]), 500.0
    turned = rotate(heads, rotations(positions, 8, base))
    frequencies = base ** (-torch.arange(4) / 4)
    angles = positions[:, None, :, None] * frequencies
    expected = torch.complex(heads[..., :4], heads[..., 4:]) * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(turned, torch.cat([expected.real, expected.imag], -1), rtol=1e-4, atol=1e-4)


def test_rotated_products_know_only_the_distance():
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def product(query_position, key_position):
        turned = (rotate(heads, rotations(torch.tensor([[place]]), 16, 10000.0)) for heads, place in ((query, query_position), (key, key_position)))
        return torch.mul(*turned).sum().item()

    assert product(5, 2) == pytest.approx(product(105, 102), abs=1e-4)
    assert product(5, 2) != pytest.approx(product(5, 3), abs=1e-2)
    assert product(7, 7) == pytest.approx((query * key).sum().item(), abs=1e-5)


def test_rotation_keeps_the_dtype_and_is_exact_far_out():
    rotation = rotations(torch.tensor([[4095]]), 8, 10000.0)
    assert rotation[0].dtype == torch.float32
    assert rotation[0][0, 0, 0, 0].item() == pytest.approx(math.cos(4095), abs=1e-4)
    assert rotate(torch.ones(1, 1, 1, 8, dtype=torch.bfloat16), rotation).dtype == torch.bfloat16


def test_places_are_counted_among_real_tokens():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 1, 0, 1], [0, 0, 0, 0, 0]])
    places = positions_of_tokens(mask, 0, 5, mask.device)
    assert places[0].tolist() == [0, 0, 0, 1, 2]
    assert places[1, :3].tolist() == [0, 1, 2]
    assert places[2, ::2].tolist() == [0, 1, 2]
    assert places.min() == 0
    assert positions_of_tokens(mask, 3, 2, mask.device).tolist() == places[:, 3:].tolist()


def test_places_without_a_mask_go_on_from_the_past():
    assert positions_of_tokens(None, 4, 3, torch.device("cpu")).tolist() == [[4, 5, 6]]
