"""transformers' flex attention beside eager attention, on the masks and positions that it has to rebuild.

Its kernel takes half a minute and more to compile on a CPU and has no backward pass there, so the quick test runs the same code uncompiled.
"""

import pytest
import torch

pytestmark = [
    pytest.mark.parametrize("architecture", ["vaswani", "llama"], indirect=True),
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
]


def scores(model, tokens, mask):
    inputs = {"input_ids": tokens, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        inputs["labels"] = tokens[:, :7].contiguous()
    with torch.no_grad():
        return model(**inputs).logits


def assert_flex_is_eager(model, tokens):
    mask = torch.ones_like(tokens)
    mask[0, :4] = 0
    model.set_attn_implementation("eager")
    expected = scores(model, tokens, mask)
    model.set_attn_implementation("flex_attention")
    actual = scores(model, tokens, mask)
    if not model.config.is_encoder_decoder:
        actual, expected = actual[mask.bool()], expected[mask.bool()]
    assert not torch.equal(expected, torch.zeros_like(expected))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", ["ForCausalLM", "ForMaskedLM", "ForConditionalGeneration"])
def test_flex_attention_is_eager_attention(build_transformer, tokens, head):
    with torch.compiler.set_stance("force_eager"):
        assert_flex_is_eager(build_transformer(head, hidden_size=32), tokens)


@pytest.mark.slow
def test_compiled_flex_attention_is_eager_attention(build_transformer, tokens):
    assert_flex_is_eager(build_transformer("ForMaskedLM", hidden_size=32), tokens)
