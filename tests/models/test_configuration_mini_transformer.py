"""MiniTransformerConfig: round trips, derived sizes, and refusals that name what is allowed."""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import DynamicCache, StaticCache
from transformers.activations import ACT2FN

from hflab.models.mini_transformer import AUTO_MAP, HEADS, MiniTransformerConfig, MiniTransformerForConditionalGeneration
from hflab.models.mini_transformer.configuration_mini_transformer import GATED_ACTIVATIONS, PLAIN_ACTIVATIONS


def test_survives_a_round_trip_with_unknown_keys(tmp_path):
    config = MiniTransformerConfig(
        hidden_size=24,
        num_decoder_layers=3,
        norm_position="pre",
        position_embedding_type="rotary",
        attention_dropout=0.5,
        eos_token_id=[1, 2],
        id2label={0: "no", 1: "yes", 2: "perhaps"},
        a_new_key={"x": [1]},
    )
    config.save_pretrained(tmp_path)
    loaded = MiniTransformerConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict() | {"_name_or_path": loaded._name_or_path}
    assert loaded.a_new_key == {"x": [1]}
    assert loaded.num_labels == 3
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "mini_transformer"


def test_sizes_left_out_follow_from_others():
    config = MiniTransformerConfig(hidden_size=48, num_hidden_layers=3, hidden_dropout=0.3)
    assert (config.intermediate_size, config.num_decoder_layers, config.classifier_dropout) == (192, 3, 0.3)
    assert MiniTransformerConfig(intermediate_size=5, num_decoder_layers=1, classifier_dropout=0).intermediate_size == 5


def test_defaults_are_the_transformer_of_2017():
    config = MiniTransformerConfig()
    assert (config.norm_position, config.position_embedding_type, config.hidden_act) == ("post", "sinusoidal", "relu")
    assert config.scale_embedding
    assert config.tie_word_embeddings


def test_names_the_code_of_every_head_and_keeps_other_entries():
    classes = {model_class._auto_class: model_class for model_class in HEADS.values()}
    assert len(classes) == len(HEADS)
    files = {name: f"{model_class.__module__.rsplit('.', 1)[1]}.{model_class.__name__}" for name, model_class in classes.items()}
    assert files | {"AutoConfig": "configuration_mini_transformer.MiniTransformerConfig"} == AUTO_MAP
    config = MiniTransformerConfig(auto_map={"AutoTokenizer": ["my_tokenizer.MyTokenizer", None]})
    assert config.auto_map == AUTO_MAP | {"AutoTokenizer": ["my_tokenizer.MyTokenizer", None]}


def test_caches_count_the_layers_of_the_decoder():
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2, "num_decoder_layers": 3}
    config = MiniTransformerForConditionalGeneration(MiniTransformerConfig(**sizes)).config
    assert len(DynamicCache(config=config)) == len(StaticCache(config=config, max_cache_len=4)) == 3
    assert len(DynamicCache(config=MiniTransformerConfig(**sizes))) == 2
    assert config.get_text_config(encoder=True) is config
    assert config.num_hidden_layers == 2


@pytest.mark.parametrize("name", PLAIN_ACTIVATIONS)
def test_activations_have_no_weights_that_nobody_would_initialise(name):
    activation = ACT2FN[name]
    assert [*activation.parameters(), *activation.buffers()] == []
    assert activation(torch.zeros(2, 3)).shape == (2, 3)


def test_gates_have_activations_that_exist():
    assert set(GATED_ACTIVATIONS.values()) <= set(PLAIN_ACTIVATIONS)
    assert not set(GATED_ACTIVATIONS) & set(PLAIN_ACTIVATIONS)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hidden_act": "swiglo"}, ["hidden_act is 'swiglo'", "Did you mean 'swiglu'?"]),
        ({"norm_position": "prae"}, ["norm_position is 'prae'", "post, pre", "Did you mean 'pre'?"]),
        ({"position_embedding_type": "rotari"}, ["sinusoidal, learned, rotary, none", "Did you mean 'rotary'?"]),
        ({"hidden_size": 0}, ["hidden_size is 0", "at least 1"]),
        ({"num_attention_heads": -1}, ["num_attention_heads is -1", "at least 1"]),
        ({"num_decoder_layers": 0}, ["num_decoder_layers is 0", "at least 1"]),
        ({"max_position_embeddings": 0}, ["max_position_embeddings is 0", "at least 1"]),
        ({"type_vocab_size": -1}, ["type_vocab_size is -1", "at least 0"]),
        ({"hidden_dropout": 1.0}, ["hidden_dropout is 1.0", "[0, 1)"]),
        ({"attention_dropout": -0.1}, ["attention_dropout is -0.1", "[0, 1)"]),
        ({"classifier_dropout": float("nan")}, ["classifier_dropout is nan", "[0, 1)"]),
        ({"initializer_range": 0.0}, ["initializer_range is 0.0", "above 0"]),
        ({"rotary_base": -1}, ["rotary_base is -1", "above 0"]),
        ({"hidden_size": 30}, ["hidden_size is 30", "4 heads", "multiple of num_attention_heads"]),
        ({"hidden_size": 9, "num_attention_heads": 3}, ["hidden_size is 9", "even", "'learned'"]),
        ({"hidden_size": 12, "position_embedding_type": "rotary"}, ["4 heads is 3 wide", "even", "'learned'"]),
        ({"is_decoder": True, "is_encoder_decoder": True}, ["is_decoder", "is_encoder_decoder", "the heads set them"]),
    ],
)
def test_refuses_what_cannot_be_built(fields, words):
    with pytest.raises(StrictDataclassClassValidationError) as error:
        MiniTransformerConfig(**fields)
    assert [word for word in words if word not in str(error.value)] == []


@pytest.mark.parametrize("fields", [{"hidden_size": "64"}, {"hidden_act": 3}, {"use_cache": "yes"}, {"hidden_dropout": "0.5"}])
def test_refuses_values_of_the_wrong_type(fields):
    with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(fields))):
        MiniTransformerConfig(**fields)
