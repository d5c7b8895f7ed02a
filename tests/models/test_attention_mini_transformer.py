"""Every implementation of attention against the readable reference: outputs and gradients, masks, lengths and dtypes."""

import itertools

import pytest
import torch
from torch.nn import functional as F
from transformers import DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

from hflab.models.mini_transformer import MiniTransformerConfig
from hflab.models.mini_transformer.attention_mini_transformer import (
    CrossAttention,
    SelfAttention,
    multi_head_attention,
    scaled_dot_product_attention,
)
from hflab.models.mini_transformer.positions_mini_transformer import rotate, rotations

H, HEADS = 12, 3
MASKS = {
    "none": None,
    "right": [[1, 1, 1, 1, 1, 0, 0], [1] * 7, [1] + [0] * 6],
    "left": [[0, 0, 1, 1, 1, 1, 1], [1] * 7, [0] * 6 + [1]],
    "interior": [[0, 1, 0, 0, 1, 1, 0], [1] * 7, [1, 0, 1, 0, 1, 0, 1]],
    "empty row": [[0] * 7, [1] * 7, [1, 1, 1, 0, 0, 0, 0]],
}
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 3e-2}  # as a share of the largest number


def config_for(implementation, **fields):
    config = MiniTransformerConfig(hidden_size=H, num_attention_heads=HEADS, **fields)
    config._attn_implementation = implementation
    return config


def with_gradients(outputs, *tensors):
    """Gradients of a sum in which every output counts differently."""
    slope = torch.linspace(-1, 1, outputs.numel()).view(outputs.shape)
    return torch.autograd.grad((outputs.float() * slope).sum(), tensors)


def assert_close(actual, expected, dtype):
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(actual.float() / scale, expected.float() / scale, rtol=0, atol=TOLERANCES[dtype])


def draw(module, *shape, dtype=torch.float32):
    """Random inputs for `module`, whose weights become random and so large that attention is far from uniform."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    module.to(dtype)
    return torch.randn(*shape).to(dtype).requires_grad_()


def reference_of(attention, query, key, value, visible):
    """The reference between the projections of `attention`, in float32."""
    outputs, weights = multi_head_attention(query, key, value, visible)
    return F.linear(outputs, attention.output_projection.weight.float(), attention.output_projection.bias.float()), weights


def heads_of(layer, states, parts):
    """The parts that a projection makes, each split into heads, in float32."""
    projected = F.linear(states.float(), layer.weight.float(), layer.bias.float())
    return [part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in projected.chunk(parts, dim=-1)]


def test_reference_is_the_formula_of_torch():
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, length, 4) for length in (5, 7, 7))
    visible = torch.rand(2, 5, 7) > 0.4
    visible[..., 0] = True
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=visible[:, None])
    outputs, weights = multi_head_attention(query, key, value, visible)
    torch.testing.assert_close(outputs, expected.transpose(1, 2).flatten(2))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 5))
    assert weights.masked_select(~visible[:, None]).count_nonzero() == 0


def test_reference_gives_zeros_where_nothing_is_seen():
    query, visible = torch.randn(2, 4, requires_grad=True), torch.tensor([[True, False], [False, False]])
    outputs, weights = scaled_dot_product_attention(query, torch.randn(2, 4), torch.randn(2, 4), visible)
    assert outputs[1].count_nonzero() == weights[1].count_nonzero() == 0
    outputs.sum().backward()
    assert query.grad.isfinite().all()


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("mask_name", list(MASKS))
@pytest.mark.parametrize(("is_causal", "rotary"), list(itertools.product([True, False], [True, False])))
def test_self_attention_is_the_reference(implementation, dtype, mask_name, is_causal, rotary):
    config = config_for(implementation)
    attention = SelfAttention(config, 0, is_causal=is_causal)
    inputs = draw(attention, 3, 7, H, dtype=dtype)
    real = None if MASKS[mask_name] is None else torch.tensor(MASKS[mask_name])
    make = create_causal_mask if is_causal else create_bidirectional_mask
    mask = make(config=config, inputs_embeds=inputs, attention_mask=real, past_key_values=None)
    rotation = rotations(torch.arange(7)[None], H // HEADS, 10000.0) if rotary else None
    outputs, weights = attention(inputs, mask, rotation=rotation)

    visible = torch.ones(3, 7, 7, dtype=torch.bool) if real is None else real.bool()[:, None].expand(3, 7, 7)
    query, key, value = heads_of(attention.query_key_value_projection, inputs, 3)
    if rotary:
        query, key = rotate(query, rotation), rotate(key, rotation)
    expected, expected_weights = reference_of(attention, query, key, value, visible.tril() if is_causal else visible)
    assert_close(outputs, expected, dtype)
    assert (weights is None) == (implementation == "sdpa")
    if weights is not None:
        assert_close(weights, expected_weights, dtype)
    tensors = (inputs, *attention.parameters())
    for gradient, other in zip(with_gradients(outputs, *tensors), with_gradients(expected, *tensors), strict=True):
        assert gradient.isfinite().all()
        assert_close(gradient, other, dtype)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("mask_name", list(MASKS))
@pytest.mark.parametrize("length", [1, 4, 9])
def test_cross_attention_is_the_reference(implementation, dtype, mask_name, length):
    config = config_for(implementation)
    attention = CrossAttention(config, 0)
    inputs = draw(attention, 3, length, H, dtype=dtype)
    encoded = torch.randn(3, 7, H).to(dtype).requires_grad_()
    real = None if MASKS[mask_name] is None else torch.tensor(MASKS[mask_name])
    mask = create_bidirectional_mask(config=config, inputs_embeds=inputs, attention_mask=real, encoder_hidden_states=encoded)
    outputs, _ = attention(inputs, encoded, mask)
    visible = None if real is None else real.bool()[:, None].expand(3, length, 7)
    (query,) = heads_of(attention.query_projection, inputs, 1)
    key, value = heads_of(attention.key_value_projection, encoded, 2)
    expected, _ = reference_of(attention, query, key, value, visible)
    assert_close(outputs, expected, dtype)
    for gradient, other in zip(with_gradients(outputs, inputs, encoded), with_gradients(expected, inputs, encoded), strict=True):
        assert_close(gradient, other, dtype)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize(("batch_size", "length"), [(1, 1), (1, 13), (5, 1), (2, 33)])
def test_odd_sizes(implementation, batch_size, length):
    config = config_for(implementation, attention_bias=True)
    attention = SelfAttention(config, 0, is_causal=True)
    inputs = draw(attention, batch_size, length, H)
    mask = create_causal_mask(config=config, inputs_embeds=inputs, attention_mask=None, past_key_values=None)
    outputs, _ = attention(inputs, mask)
    visible = torch.ones(batch_size, length, length, dtype=torch.bool).tril()
    expected, _ = reference_of(attention, *heads_of(attention.query_key_value_projection, inputs, 3), visible)
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_weights_are_dropped_in_training_only(implementation):
    config = config_for(implementation, attention_dropout=0.5)
    attention = SelfAttention(config, 0, is_causal=False)
    inputs = draw(attention, 2, 7, H)
    assert torch.equal(attention.eval()(inputs)[0], attention(inputs)[0])
    assert not torch.allclose(attention.train()(inputs)[0], attention(inputs)[0])


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_token_alone_with_the_cache_is_the_end_of_the_row(implementation):
    config = config_for(implementation)
    attention, cache = SelfAttention(config, 0, is_causal=True), DynamicCache(config=config)
    inputs = draw(attention, 2, 6, H)
    whole, _ = attention(inputs, create_causal_mask(config=config, inputs_embeds=inputs, attention_mask=None, past_key_values=None))
    for t in range(6):
        step = inputs[:, t : t + 1]
        outputs, _ = attention(step, None, past_key_values=cache)
        torch.testing.assert_close(outputs[:, 0], whole[:, t], rtol=1e-5, atol=1e-5)
    assert cache.layers[0].keys.shape == (2, HEADS, 6, H // HEADS)


def test_cross_attention_computes_keys_of_the_encoder_once():
    config = config_for("sdpa")
    attention = CrossAttention(config, 0)
    inputs = draw(attention, 2, 3, H)
    encoded, cache = torch.randn(2, 5, H), EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
    first, _ = attention(inputs, encoded, past_key_values=cache)
    attention.key_value_projection.weight.data.zero_()
    second, _ = attention(inputs, torch.full_like(encoded, float("nan")), past_key_values=cache)
    assert torch.equal(first, second)
    assert cache.is_updated[0]
    assert cache.get_seq_length() == 0  # of self-attention
