"""GPT-2 as a family: its fields by either name, every head of it, and folders that need no code of hflab."""

import pytest
import torch
import transformers
from transformers import AutoModel, GPT2LMHeadModel

from hflab.errors import UserError
from hflab.models import FAMILIES, build_model, check_model_config, config_fields

SMALL = {"vocab_size": 19, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "n_positions": 12}


@pytest.mark.parametrize("head", FAMILIES["gpt2"].heads)
def test_every_head_is_transformers_own(head, tmp_path):
    model = build_model("gpt2", head, SMALL)
    assert type(model).__module__.startswith("transformers.")
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    assert type(AutoModel.from_pretrained(tmp_path)) is transformers.GPT2Model


def test_fields_go_by_both_names():
    fields = config_fields("gpt2")
    assert fields["hidden_size"] == fields["n_embd"]
    model = build_model("gpt2", "ForCausalLM", SMALL)
    assert isinstance(model, GPT2LMHeadModel)
    assert (model.config.n_embd, model.config.n_layer, model.config.n_head) == (16, 2, 2)
    assert len(model.transformer.h) == 2


def test_checking_costs_no_memory():
    check_model_config("gpt2", "ForCausalLM", {"n_embd": 100_000, "n_head": 10})  # more than a terabyte of weights


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"n_embed": 8}, "Did you mean 'n_embd'"),
        ({"n_embd": 8, "hidden_size": 8}, "two names of one field"),
        ({"hidden_size": 10, "n_head": 4}, "divisible"),
        ({"n_layer": "two"}, "n_layer"),
    ],
)
def test_mistakes_are_named(fields, expected):
    with pytest.raises(UserError, match=expected):
        check_model_config("gpt2", "ForCausalLM", fields)


def test_it_computes_what_transformers_gpt2_does():
    torch.manual_seed(0)
    model = build_model("gpt2", "ForCausalLM", SMALL).eval()
    torch.manual_seed(0)
    expected = GPT2LMHeadModel(model.config).eval()
    ids = torch.randint(19, (2, 9))
    torch.testing.assert_close(model(ids).logits, expected(ids).logits)
