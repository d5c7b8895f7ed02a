"""RecurrentConfig: round trips, derived sizes, and refusals that name what is allowed."""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers.activations import ACT2FN

from hflab.models.recurrent import ATTENTIONS, AUTO_MAP, BLOCKS, CELLS, HEADS, POOLING, RecurrentConfig
from hflab.models.recurrent.configuration_recurrent import ACTIVATIONS, ATTENTION_TYPES, BLOCK_STYLES, POOLINGS


def test_survives_a_round_trip_with_unknown_keys(tmp_path, cell_type, block_style):
    config = RecurrentConfig(
        cell_type=cell_type,
        block_style=block_style,
        hidden_size=24,
        embedding_size=8,
        recurrent_dropout=0.5,
        eos_token_id=[1, 2],
        num_mel_bins=40,
        num_conv_layers=3,
        mask_time_prob=0.25,
        ctc_zero_infinity=False,
        a_new_key={"x": [1]},
    )
    config.save_pretrained(tmp_path)
    loaded = RecurrentConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict() | {"_name_or_path": loaded._name_or_path}
    assert loaded.a_new_key == {"x": [1]}
    assert (loaded.num_mel_bins, loaded.num_conv_layers, loaded.mask_time_prob, loaded.ctc_zero_infinity) == (40, 3, 0.25, False)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "recurrent"


def test_sizes_left_out_follow_from_hidden_size():
    assert RecurrentConfig(hidden_size=48).embedding_size == 48
    assert RecurrentConfig(hidden_size=48).intermediate_size is None
    assert RecurrentConfig(hidden_size=48, block_style="residual").intermediate_size == 96
    assert RecurrentConfig(num_hidden_layers=3).layer_types == ["recurrent"] * 3


def test_whole_numbers_are_fine_where_fractions_are():
    config = RecurrentConfig(input_dropout=0, forget_bias=2, initializer_range=1)
    assert (config.input_dropout, config.forget_bias) == (0, 2)


def test_names_the_code_of_every_head_and_keeps_other_entries():
    assert {name.rsplit(".", 1)[1] for name in AUTO_MAP.values()} == {model_class.__name__ for model_class in HEADS.values()} | {"RecurrentConfig"}
    assert {name: AUTO_MAP[model_class._auto_class] for name, model_class in HEADS.items()} == {
        name: f"{model_class.__module__.rsplit('.', 1)[1]}.{model_class.__name__}" for name, model_class in HEADS.items()
    }
    config = RecurrentConfig(auto_map={"AutoTokenizer": ["my_tokenizer.MyTokenizer", None]})
    assert config.auto_map == AUTO_MAP | {"AutoTokenizer": ["my_tokenizer.MyTokenizer", None]}


def test_knows_every_choice():
    assert tuple(BLOCKS) == BLOCK_STYLES
    assert tuple(POOLING) == POOLINGS
    assert (*ATTENTIONS, "none") == ATTENTION_TYPES


def test_an_encoder_decoder_has_a_config_for_each_part():
    config = RecurrentConfig(is_encoder_decoder=True, bidirectional=True, num_hidden_layers=3, num_decoder_layers=2, tie_word_embeddings=True)
    decoder, encoder = config.get_text_config(decoder=True), config.get_text_config(encoder=True)
    assert (decoder.num_hidden_layers, decoder.bidirectional, decoder.is_encoder_decoder, decoder.layer_types) == (2, False, False, ["recurrent"] * 2)
    assert (encoder.num_hidden_layers, encoder.bidirectional, encoder.is_encoder_decoder, encoder.tie_word_embeddings) == (3, True, False, False)
    assert config.get_text_config() is config
    assert RecurrentConfig(num_hidden_layers=3).decoder_config().num_hidden_layers == 3
    plain = RecurrentConfig(num_decoder_layers=2)
    assert plain.get_text_config(decoder=True) is plain


@pytest.mark.parametrize("num_conv_layers", range(5))
@pytest.mark.parametrize("conv_kernel_size", [1, 2, 3, 5, 8])
def test_frames_that_a_speech_recogniser_makes_and_looks_back_on(num_conv_layers, conv_kernel_size):
    """As convolutions with stride 2 do it: half of the frames, rounded up, each of which sees so many of those below."""
    config = RecurrentConfig(num_conv_layers=num_conv_layers, conv_kernel_size=conv_kernel_size, hop_length=100)
    factor = config.subsampling_factor
    assert factor == [1, 2, 4, 8, 16][num_conv_layers]
    assert config.inputs_to_logits_ratio == 100 * factor
    for num_frames in (0, 1, 2, 5, 16, 17, 99):
        halved = num_frames
        for _ in range(num_conv_layers):
            halved = (halved + 1) // 2
        assert config.num_output_frames(num_frames) == halved
    assert config.num_output_frames(torch.tensor([0, 1, 16, 17])).tolist() == [config.num_output_frames(count) for count in (0, 1, 16, 17)]
    earliest = 1000 * factor  # the first frame of features that output frame 1000 sees
    for layer in reversed(range(num_conv_layers)):
        earliest = earliest - (conv_kernel_size - 1) * 2**layer
    assert config.lookback_frames % factor == 0
    assert config.lookback_frames - factor < 1000 * factor - earliest <= config.lookback_frames


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_have_no_weights_that_nobody_would_initialise(name):
    activation = ACT2FN[name]
    assert [*activation.parameters(), *activation.buffers()] == []
    assert activation(torch.zeros(2, 3)).shape == (2, 3)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cell_type": "gruu"}, ["cell_type is 'gruu'", *CELLS, "Did you mean 'gru'?"]),
        ({"cell_type": "transformer"}, ["cell_type is 'transformer'", *CELLS]),
        ({"block_style": "stackd"}, ["stacked, residual", "Did you mean 'stacked'?"]),
        ({"recurrent_initializer": "orthogonl"}, ["orthogonal, uniform, normal", "Did you mean 'orthogonal'?"]),
        ({"hidden_act": "geluu"}, ["hidden_act is 'geluu'", "Did you mean 'gelu'?"]),
        ({"hidden_size": 0}, ["hidden_size is 0", "at least 1"]),
        ({"embedding_size": -2}, ["embedding_size is -2", "at least 1"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers is 0", "at least 1"]),
        ({"vocab_size": 0}, ["vocab_size is 0", "at least 1"]),
        ({"num_decoder_layers": 0}, ["num_decoder_layers is 0", "at least 1"]),
        ({"pooling": "means"}, ["last, mean, max", "Did you mean 'mean'?"]),
        ({"attention_type": "aditive"}, ["multiplicative, additive, none", "Did you mean 'additive'?"]),
        ({"classifier_dropout": 1}, ["classifier_dropout is 1", "[0, 1)"]),
        ({"num_mel_bins": 0}, ["num_mel_bins is 0", "at least 1"]),
        ({"hop_length": 0}, ["hop_length is 0", "at least 1"]),
        ({"conv_kernel_size": 0}, ["conv_kernel_size is 0", "at least 1"]),
        ({"mask_time_length": 0}, ["mask_time_length is 0", "at least 1"]),
        ({"mask_feature_length": -1}, ["mask_feature_length is -1", "at least 1"]),
        ({"mask_time_prob": 1.0}, ["mask_time_prob is 1.0", "[0, 1)"]),
        ({"mask_feature_prob": -0.5}, ["mask_feature_prob is -0.5", "[0, 1)"]),
        ({"mask_feature_prob": 0.1, "num_mel_bins": 10}, ["mask_feature_length is 10", "num_mel_bins (10)"]),
        ({"num_conv_layers": -1}, ["num_conv_layers is -1", "from 0 to 4"]),
        ({"num_conv_layers": 5}, ["num_conv_layers is 5", "from 0 to 4"]),
        ({"input_dropout": 1.0}, ["input_dropout is 1.0", "[0, 1)"]),
        ({"embedding_dropout": -0.1}, ["embedding_dropout is -0.1", "[0, 1)"]),
        ({"recurrent_dropout": 2}, ["recurrent_dropout is 2", "[0, 1)"]),
        ({"output_dropout": float("nan")}, ["output_dropout is nan", "[0, 1)"]),
        ({"initializer_range": 0.0}, ["initializer_range is 0.0", "above 0"]),
        ({"layer_norm_eps": -1e-5}, ["layer_norm_eps is -1e-05", "above 0"]),
        ({"intermediate_size": 64}, ["intermediate_size is 64", "block_style='residual'"]),
    ],
)
def test_refuses_what_cannot_be_built(fields, words):
    with pytest.raises(StrictDataclassClassValidationError) as error:
        RecurrentConfig(**fields)
    assert [word for word in words if word not in str(error.value)] == []


@pytest.mark.parametrize(
    "fields", [{"hidden_size": "64"}, {"cell_type": 3}, {"use_cache": "yes"}, {"input_dropout": "0.5"}, {"num_conv_layers": 2.0}]
)
def test_refuses_values_of_the_wrong_type(fields):
    with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(fields))):
        RecurrentConfig(**fields)
