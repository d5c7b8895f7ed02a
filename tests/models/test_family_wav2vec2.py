"""wav2vec 2.0 as a family: every head of it is transformers' own, folders need no code, and its feature extractor fits the model."""

import pytest
import transformers
from transformers import AutoFeatureExtractor, AutoModel, Wav2Vec2ForCTC

from hflab.errors import UserError
from hflab.models import FAMILIES, build_model, check_model_config, config_fields

SMALL = {"vocab_size": 9, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "conv_dim": [8] * 7}
SMALL |= {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "codevector_dim": 16, "proj_codevector_dim": 16}


@pytest.mark.parametrize("head", FAMILIES["wav2vec2"].heads)
def test_every_head_is_transformers_own(head, tmp_path):
    model = build_model("wav2vec2", head, SMALL)
    assert type(model).__module__.startswith("transformers.")
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    assert type(AutoModel.from_pretrained(tmp_path)) is transformers.Wav2Vec2Model


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_its_feature_extractor_hands_a_mask_to_models_that_read_one(norm, tmp_path):
    family = FAMILIES["wav2vec2"]
    extractor = family.build_feature_extractor(family.config_class(feat_extract_norm=norm), None)
    assert isinstance(extractor, family.feature_extractor_class)
    assert (extractor.return_attention_mask, extractor.do_normalize, extractor.sampling_rate) == (norm == "layer", True, 16000)
    extractor.save_pretrained(tmp_path)
    assert AutoFeatureExtractor.from_pretrained(tmp_path).to_dict() == extractor.to_dict()


def test_checking_costs_no_memory():
    check_model_config("wav2vec2", "ForPreTraining", {"hidden_size": 65536, "num_attention_heads": 64})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"hiden_size": 8}, "Did you mean 'hidden_size'"),
        ({"hidden_size": 10, "num_attention_heads": 4}, "divisible"),
        ({"conv_dim": [8]}, "conv"),
        ({"feat_extract_norm": "batch"}, "feat_extract_norm"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
    ],
)
def test_mistakes_are_named(fields, expected):
    with pytest.raises(UserError, match=expected):
        check_model_config("wav2vec2", "ForCTC", fields)


def test_only_families_that_hear_build_feature_extractors():
    assert [name for name, family in FAMILIES.items() if family.build_feature_extractor is not None] == ["recurrent", "wav2vec2"]
    assert config_fields("wav2vec2")["num_negatives"] == 100
    assert isinstance(build_model("wav2vec2", "ForCTC", SMALL), Wav2Vec2ForCTC)
