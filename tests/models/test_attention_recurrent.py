"""Attention: the vectorised forms against loops over single pairs, outputs and gradients, with padding of every kind."""

import pytest
import torch

from hflab.models.recurrent import ATTENTIONS
from hflab.models.recurrent.attention_recurrent import attend_one_by_one

# rows, target tokens, source tokens, width of queries, width of the memory
SHAPES = [(3, 4, 7, 5, 10), (1, 1, 1, 3, 3), (2, 9, 1, 4, 4), (1, 5, 6, 7, 3)]


@pytest.fixture(params=list(ATTENTIONS))
def make(request):
    """Makes an attention of the kind at hand, with its queries (B, T, H) and memory (B, S, D)."""

    def make_attention(shape, dtype=torch.float64):
        torch.manual_seed(0)
        B, T, S, H, D = shape
        attention = ATTENTIONS[request.param](H, D).to(dtype)
        queries, memory = torch.randn(B, T, H, dtype=dtype), torch.randn(B, S, D, dtype=dtype)
        return attention, queries.requires_grad_(), memory.requires_grad_()

    return make_attention


def padded(num_rows, length, kind):
    """A mask (B, S): the first row with padding of the kind, the others with one more real token each."""
    mask = torch.zeros(num_rows, length, dtype=torch.bool)
    for row in range(num_rows):
        real = min(length, length // 2 + row)
        mask[row, slice(length - real, None) if kind == "left" else slice(real)] = True
    if kind == "interior":
        mask[:, ::2] = True
    if kind == "empty row":
        mask[0] = False
    return mask


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("padding", [None, "left", "right", "interior", "empty row"])
def test_is_the_loop_over_pairs(make, shape, padding):
    mask = None if padding is None else padded(shape[0], shape[2], padding)
    results = []
    for function in (lambda attention, *arguments: attention(*arguments), attend_one_by_one):
        attention, queries, memory = make(shape)
        contexts, weights = function(attention, queries, attention.key_projection(memory), memory, mask)
        assert contexts.shape == (shape[0], shape[1], shape[4])
        assert weights.shape == (shape[0], 1, shape[1], shape[2])
        loss = (contexts * torch.linspace(-1, 1, shape[4], dtype=contexts.dtype)).sum() + (weights * weights.detach().cos()).sum()
        inputs = [queries, memory, *attention.parameters()]
        loss = loss + 0 * sum(tensor.sum() for tensor in inputs)  # the loop makes no graph where every row is padding
        gradients = torch.autograd.grad(loss, inputs)
        results.append([contexts, weights, *gradients])
    assert len(results[0]) >= 5
    for fast, expected in zip(*results, strict=True):
        torch.testing.assert_close(fast, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_agrees_in_lower_precision(make, dtype):
    shape, mask = SHAPES[0], padded(3, 7, "right")
    attention, queries, memory = make(shape)
    expected = attention(queries, attention.key_projection(memory), memory, mask)
    attention, queries, memory = (thing.to(dtype) for thing in (attention, queries, memory))
    contexts, weights = attention(queries, attention.key_projection(memory), memory, mask)
    assert contexts.dtype == weights.dtype == dtype
    tolerance = 1e-5 if dtype is torch.float32 else 3e-2
    torch.testing.assert_close(contexts.double(), expected[0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(weights.double(), expected[1], rtol=tolerance, atol=tolerance)


def test_weights_are_a_distribution_over_real_tokens(make):
    attention, queries, memory = make(SHAPES[0])
    mask = padded(3, 7, "right")
    _, weights = attention(queries, attention.key_projection(memory), memory, mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
    assert weights[~mask[:, None, None].expand_as(weights)].count_nonzero() == 0
    assert weights.std() > 0


def test_a_row_of_padding_gives_nothing_and_gets_no_gradient(make):
    attention, queries, memory = make(SHAPES[0])
    contexts, weights = attention(queries, attention.key_projection(memory), memory, padded(3, 7, "empty row"))
    contexts.square().sum().backward()
    assert contexts[0].count_nonzero() == weights[0].count_nonzero() == 0
    assert memory.grad[0].count_nonzero() == queries.grad[0].count_nonzero() == 0
    assert all(parameter.grad.isfinite().all() for parameter in attention.parameters())


def test_the_formulas_are_those_of_the_papers():
    torch.manual_seed(0)
    query, state = torch.randn(4), torch.randn(6)
    general = ATTENTIONS["multiplicative"](4, 6)
    torch.testing.assert_close(general.score_one(query, general.key_projection(state)), query @ general.key_projection.weight @ state)
    concat = ATTENTIONS["additive"](4, 6)
    inner = torch.tanh(concat.query_projection.weight @ query + concat.query_projection.bias + concat.key_projection.weight @ state)
    torch.testing.assert_close(concat.score_one(query, concat.key_projection(state)), concat.score_projection.weight[0] @ inner)
