"""Building models by family, head and config fields, and registering with the Auto classes."""

import pytest
import torch
import transformers
from transformers import AutoConfig

from hflab.errors import UserError
from hflab.models import FAMILIES, build_model, check_model_config, config_fields, register_auto_classes
from hflab.models.recurrent import CELLS, RecurrentConfig, RecurrentForCausalLM

CASES = [(name, head) for name, family in FAMILIES.items() if family.is_own for head in family.heads]


@pytest.mark.parametrize(("family", "head"), CASES)
def test_builds_every_head_of_every_family(family, head):
    check_model_config(family, head, {"vocab_size": 19})
    model = build_model(family, head, {"vocab_size": 19})
    assert type(model) is FAMILIES[family].heads[head]
    assert type(model).__name__.endswith(head)
    assert model.config.vocab_size == 19
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())


@pytest.mark.parametrize(("family", "head"), CASES)
def test_auto_classes_know_every_head(family, head, tmp_path):
    register_auto_classes()
    register_auto_classes()
    model = build_model(family, head, {"vocab_size": 19})
    auto_class = getattr(transformers, type(model)._auto_class)
    model.save_pretrained(tmp_path)
    assert type(auto_class.from_pretrained(tmp_path)) is type(model)  # no remote code needed where hflab is installed
    assert type(auto_class.from_pretrained(tmp_path, trust_remote_code=True)) is type(model)  # nor taken
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(model.config)
    assert type(auto_class.from_config(model.config)) is type(model)


def test_fields_are_those_of_the_family_with_their_defaults():
    fields = config_fields("recurrent")
    assert fields["cell_type"] == RecurrentConfig().cell_type
    assert fields["embedding_size"] is None
    assert "id2label" not in fields
    assert len(fields) > 15


def test_fields_reach_the_model():
    for cell_type, cell in CELLS.items():
        model = build_model("recurrent", "ForCausalLM", {"cell_type": cell_type, "hidden_size": 8, "tie_word_embeddings": True})
        assert isinstance(model, RecurrentForCausalLM)
        assert type(model.model.layers[0].cell) is cell


def test_checking_costs_no_memory_and_leaves_the_random_state():
    state = torch.get_rng_state()
    check_model_config("recurrent", "ForCausalLM", {"hidden_size": 100_000, "num_hidden_layers": 3})  # 960 GB of weights
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("function", [build_model, check_model_config])
@pytest.mark.parametrize(
    ("family", "head", "fields", "words"),
    [
        ("recurent", "ForCausalLM", {}, ["'recurent'", "Did you mean 'recurrent'?"]),
        ("recurrent", "ForCausalML", {}, ["'ForCausalML'", "Did you mean 'ForCausalLM'?"]),
        ("recurrent", "ForCausalLM", {"hiden_size": 8}, ["hiden_size", "num_hidden_layers", "Did you mean 'hidden_size'?"]),
        ("recurrent", "ForCausalLM", {"hidden_size": "8"}, ["hidden_size", "int", "'8'"]),
        ("recurrent", "ForCausalLM", {"cell_type": "gruu"}, ["'gruu'", "Did you mean 'gru'?"]),
        ("recurrent", "ForCausalLM", {"bidirectional": True}, ["bidirectional", "RecurrentModel"]),
    ],
)
def test_mistakes_are_named(function, family, head, fields, words):
    with pytest.raises(UserError) as error:
        function(family, head, fields)
    assert [word for word in words if word not in str(error.value)] == []
