"""Pretrained models: each head through its Auto class, heads that fit and that do not, what freezing leaves, and block groups."""

import pytest
import torch
from small_models import build, make_tokenizer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import BertConfig, BertForTokenClassification, GPT2ForSequenceClassification, PreTrainedTokenizerFast

from hflab.errors import UserError
from hflab.recipe import ModelSection, parse_recipe
from hflab.training import loop
from hflab.training.freezing import GradualUnfreezing, block_groups, head_names, learning_rate_scales
from hflab.training.pretrained import load_pretrained_model, load_pretrained_tokenizer

KINDS = ["gpt2", "bert", "classifier", "bart", "lstm", "mini_transformer"]


def load(folder, head, labels=None, **keys):
    return load_pretrained_model(ModelSection(pretrained=folder, **keys), head, label_names=labels)


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("kind", "head", "labels"),
    [
        ("gpt2", "ForCausalLM", None),
        ("lstm", "ForCausalLM", None),
        ("mini_transformer", "ForCausalLM", None),
        ("bert", "ForMaskedLM", None),
        ("bart", "ForConditionalGeneration", None),
        ("classifier", "ForSequenceClassification", ["no", "yes"]),
    ],
)
def test_a_head_that_fits_is_loaded_as_it_is(pretrained, kind, head, labels):
    torch.manual_seed(0)
    expected = build(kind, make_tokenizer()).state_dict()
    model = load(pretrained(kind), head, labels)
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert trained(model) == {name for name, _ in model.named_parameters()}


def test_a_new_head_has_the_labels_and_all_else_is_as_loaded(pretrained):
    labels = ["bad", "fair", "good"]
    model = load(pretrained("classifier"), "ForSequenceClassification", labels, new_head=True)
    before = load(pretrained("classifier"), "ForSequenceClassification", ["no", "yes"]).state_dict()
    assert model.config.id2label == {0: "bad", 1: "fair", 2: "good"}
    assert model.config.label2id["good"] == 2
    assert model.classifier.weight.shape == (3, 16)
    assert torch.isfinite(model.classifier.weight).all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if not name.startswith("classifier."))


def test_a_new_head_of_the_same_size_is_fresh_too_and_follows_the_seed(pretrained):
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model = load(pretrained("classifier"), "ForSequenceClassification", ["no", "yes"], new_head=True)
        heads.append(model.classifier.weight.detach())
    old = load(pretrained("classifier"), "ForSequenceClassification", ["no", "yes"]).classifier.weight
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert not torch.equal(heads[0], old)


@pytest.mark.parametrize(
    ("kind", "head", "model_class"),
    [("bert", "ForTokenClassification", BertForTokenClassification), ("gpt2", "ForSequenceClassification", GPT2ForSequenceClassification)],
)
def test_a_new_head_comes_on_a_language_model(pretrained, kind, head, model_class):
    model = load(pretrained(kind), head, ["a", "b", "c"], new_head=True)
    assert type(model) is model_class
    assert model.config.num_labels == 3
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("kind", "head", "labels", "keys", "expected"),
    [
        ("bert", "ForSequenceClassification", ["a", "b"], {}, "trained with another head; set model.new_head: true"),
        ("classifier", "ForSequenceClassification", ["a", "b", "c"], {}, r"has 2 labels, and the data have 3 .* set model.new_head: true"),
        ("classifier", "ForSequenceClassification", ["yes", "no"], {}, "tells 'no', 'yes' apart, and the data have 'yes', 'no'"),
        ("gpt2", "ForConditionalGeneration", None, {}, "a gpt2 model, which transformers has no ForConditionalGeneration of"),
        ("bert", "ForCausalLM", None, {}, "cannot learn to predict them"),
        ("gpt2", "ForCausalLM", None, {"new_head": True}, "no weights of its own"),
        ("gpt2", "ForCausalLM", None, {"freeze": ["all_but_head"]}, "Its head shares the embedding's weight"),
        ("gpt2", "ForCausalLM", None, {"freeze": ["transformer.hh.*"]}, "'transformer.hh.*', which matches no parameter"),
        ("gpt2", "ForCausalLM", None, {"freeze": ["*"]}, "leaves nothing"),
    ],
)
def test_what_does_not_fit_is_said(pretrained, kind, head, labels, keys, expected):
    with pytest.raises(UserError, match=expected.replace("'transformer.hh.*'", r"'transformer\.hh\.\*'")):
        load(pretrained(kind), head, labels, **keys)


def test_classes_without_names_are_taken_with_a_warning(tmp_path, caplog):
    model = build("classifier", make_tokenizer())
    model.config.id2label, model.config.label2id = {0: "LABEL_0", 1: "LABEL_1"}, {"LABEL_0": 0, "LABEL_1": 1}
    model.save_pretrained(tmp_path)
    loaded = load(str(tmp_path), "ForSequenceClassification", ["no", "yes"])
    assert "have no names" in caplog.text
    assert loaded.config.id2label == {0: "no", 1: "yes"}


def test_a_missing_model_says_how_to_point_at_a_folder(tmp_path):
    with pytest.raises(UserError, match=r"model\.pretrained is 'gpt2', which cannot be loaded") as error:
        load("gpt2", "ForCausalLM")
    assert "hf download gpt2 --local-dir FOLDER" in str(error.value)
    assert "--model.pretrained FOLDER" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"without config\.json"):
        load(str(tmp_path), "ForCausalLM")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"an adapter and no model"):
        load(str(tmp_path), "ForCausalLM")


def test_the_embedding_grows_with_the_tokenizer(pretrained):
    model = load_pretrained_model(ModelSection(pretrained=pretrained("gpt2")), "ForCausalLM", vocab_size=50)
    assert model.get_input_embeddings().weight.shape == (50, 16)
    assert model(torch.tensor([[49]])).logits.shape == (1, 1, 50)


@pytest.mark.parametrize(
    ("kind", "head", "labels", "expected"),
    [
        ("classifier", "ForSequenceClassification", ["no", "yes"], {"classifier.weight", "classifier.bias"}),
        ("bert", "ForTokenClassification", ["a", "b"], {"classifier.weight", "classifier.bias"}),
        # the pooler is of the body, but as fresh as the head
        (
            "bert",
            "ForSequenceClassification",
            ["a"],
            {f"{part}.{name}" for part in ("classifier", "bert.pooler.dense") for name in ("weight", "bias")},
        ),
        ("lstm", "ForCausalLM", None, {"lm_head.weight", "lm_head.bias"}),
    ],
)
def test_all_but_head_keeps_the_head_and_what_is_fresh(pretrained, kind, head, labels, expected):
    fresh = kind == "bert"
    assert trained(load(pretrained(kind), head, labels, new_head=fresh, freeze=["all_but_head"])) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_block_groups_lead_from_the_embedding_to_the_head(kind):
    model = build(kind, make_tokenizer())
    groups = block_groups(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert sorted(id(parameter) for group in groups for parameter in group) == sorted(names)
    assert {id(model.get_input_embeddings().weight)} <= {id(parameter) for parameter in groups[0]}
    assert {names[id(parameter)] for parameter in groups[-1]} >= head_names(model)
    expected = {"gpt2": 3, "bert": 4, "classifier": 4, "bart": 5, "lstm": 4, "mini_transformer": 3}
    assert len(groups) == expected[kind]
    assert all(any(parameter.ndim >= 2 for parameter in group) for group in groups)


def test_scales_fall_from_group_to_group():
    model = build("classifier", make_tokenizer())
    scales = learning_rate_scales(model, 0.5)
    assert scales[id(model.classifier.weight)] == 1.0
    assert scales[id(model.bert.encoder.layer[1].attention.self.query.weight)] == 0.5
    assert scales[id(model.bert.encoder.layer[0].attention.self.query.weight)] == 0.25
    assert scales[id(model.bert.embeddings.word_embeddings.weight)] == 0.125


@pytest.mark.parametrize("several_processes", [False, True])
def test_gradual_unfreezing_adds_a_group_at_a_time(several_processes):
    model = build("classifier", make_tokenizer())
    model.bert.pooler.requires_grad_(False)
    frozen = {name for name, _ in model.named_parameters() if "pooler" in name}
    unfreezing = GradualUnfreezing(model, 2, several_processes=several_processes)
    ids = torch.tensor([[3, 4, 5]])
    counts = []
    for step in range(9):
        unfreezing.before_step(step)
        model(input_ids=ids, labels=torch.tensor([1])).loss.backward()
        unfreezing.drop_frozen_gradients(step)
        with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert not with_gradient & frozen
        counts.append(len(with_gradient))
        model.zero_grad(set_to_none=True)
    assert counts == sorted(counts)
    assert counts[0] == counts[1] == 2  # the classifier's
    assert len(set(counts)) == 4
    assert counts[-1] == len(list(model.parameters())) - len(frozen)


def test_blocks_are_found_in_any_module():
    model = nn.Sequential(nn.Embedding(5, 4), nn.ModuleList([nn.Sequential(nn.Linear(4, 4)) for _ in range(2)]), nn.Linear(4, 2))
    assert [len(group) for group in block_groups(model)] == [1, 2, 2, 2]


def test_the_tokenizer_of_a_bert_closes_texts_with_its_sep_token(tmp_path):
    words = WordLevel({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4}, unk_token="[UNK]")
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), **named).save_pretrained(tmp_path)
    BertConfig(vocab_size=5).save_pretrained(tmp_path)
    tokenizer = load_pretrained_tokenizer(ModelSection(pretrained=str(tmp_path)))
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("[SEP]", 3)


def test_fields_of_the_config_are_replaced_and_the_weights_stay(pretrained):
    model = load(
        pretrained("mini_transformer"), "ForSequenceClassification", ["a", "b"], new_head=True, config={"pooling": "mean", "hidden_dropout": 0.3}
    )
    assert (model.config.pooling, model.config.hidden_dropout, model.pooler.pooling) == ("mean", 0.3, "mean")
    before = load(pretrained("mini_transformer"), "ForCausalLM").state_dict()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if name.startswith("model."))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"poolin": "mean"}, "Did you mean 'pooling'"),
        ({"freez": []}, "Did you mean 'freeze'"),
        ({"pooling": "median"}, "choose from: token, mean"),
        ({"hidden_dropout": "much"}, "model.hidden_dropout"),
        ({"hidden_size": 32}, "no longer fit"),
        ({"num_hidden_layers": 3}, "no longer fit"),
    ],
)
def test_fields_that_the_model_cannot_have(pretrained, fields, message):
    with pytest.raises(UserError, match=message):
        load(pretrained("mini_transformer"), "ForSequenceClassification", ["a", "b"], new_head=True, config=fields)


def test_a_mistake_in_the_model_leaves_no_folder_behind(pretrained, tmp_path):
    (tmp_path / "text.txt").write_text("abc abd " * 200)
    model = {"pretrained": pretrained("mini_transformer"), "hidden_size": 32}
    data = {"source": "text", "path": str(tmp_path / "text.txt"), "layout": "windows", "sequence_length": 8}
    recipe = parse_recipe({"data": data, "model": model, "training": {"num_steps": 1, "device": "cpu"}})
    for _ in range(2):
        with pytest.raises(UserError, match="no longer fit"):
            loop.train(recipe, name="x", output=tmp_path / "runs", run_name="x", command="")
        assert list((tmp_path / "runs").iterdir()) == []
