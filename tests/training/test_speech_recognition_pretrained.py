"""Pretrained speech models by folder: which fit, what is trained, what comes out, and that nothing depends on batches or interruptions."""

import copy
import json
import logging
import shutil
import signal

import pytest
import small_speech
import torch
from safetensors.torch import load_file
from test_resume import assert_same, finish, launch
from transformers import AutoModelForCTC, BertConfig, BertModel, Wav2Vec2CTCTokenizer

from hflab import api
from hflab.errors import UserError
from hflab.recipe import parse_recipe
from hflab.run_folder import RunFolder
from hflab.training import loop
from hflab.training.interruption import TrainingInterrupted
from hflab.training.speech_recognition import SpeechRecognition
from hflab.training.tasks import check_recipe

STILL = {f"{place}_dropout": 0.0 for place in ("hidden", "attention", "activation", "final")} | {"apply_spec_augment": False}


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    return small_speech.write_recordings(tmp_path_factory.mktemp("tones") / "data", {"train": 20, "validation": 6})


@pytest.fixture(scope="session")
def speech_model(tmp_path_factory):
    """A folder with a small model: `speech_model("hubert-layer")`, its head and fields of its config as in `small_speech.save`."""
    made = {}

    def folder_of(kind, head="ForCTC", **fields):
        key = json.dumps([kind, head, fields])
        if key not in made:
            made[key] = small_speech.save(kind, tmp_path_factory.mktemp("speech") / kind, head, **{"initializer_range": 0.1, **fields})
        return made[key]

    return folder_of


@pytest.fixture
def recipe_for(recordings):
    """Build a small fine-tuning recipe: `recipe_for(folder, model={"new_head": True})`."""

    def make(pretrained, **changes):
        values = {
            "task": "speech_recognition",
            "data": {"source": "speech", "path": str(recordings)},
            "model": {"pretrained": pretrained},
            "training": {"num_steps": 6, "batch_size": 4, "learning_rate": 1e-3, "log_every_steps": 2, "evaluate_every_steps": 3, "device": "cpu"},
            "evaluation": {"batch_size": 4, "sample_examples": 2},
        }
        for section, keys in changes.items():
            values[section] = {**values[section], **keys}
        return parse_recipe(values)

    return make


def train(recipe, tmp_path, name="tuned"):
    return loop.train(recipe, name=name, output=tmp_path)


def changed(recipe, run):
    """Names of the weights of the pretrained folder that training changed."""
    before, after = load_file(f"{recipe.model.pretrained}/model.safetensors"), load_file(run.model / "model.safetensors")
    return {name for name, value in before.items() if name in after and not torch.equal(value, after[name])}


@pytest.mark.parametrize(
    ("kind", "num_steps"),
    [
        pytest.param("wav2vec2-group", 160, marks=pytest.mark.slow),
        ("wav2vec2-layer", 160),
        pytest.param("hubert-layer", 300, marks=pytest.mark.slow),
        pytest.param("wavlm-layer", 300, marks=pytest.mark.slow),
    ],
)
def test_a_small_model_overfits_20_clips_to_no_error(recipe_for, speech_model, tmp_path, kind, num_steps):
    training = {"num_steps": num_steps, "batch_size": 10, "learning_rate": 1e-2, "warmup_steps": 20, "evaluate_every_steps": 300}
    run = train(recipe_for(speech_model(kind), model={"new_head": True, **STILL}, training=training), tmp_path)
    figures = api.evaluate(run.path, split="train")
    assert figures["word_error_rate"] == 0
    assert figures["loss"] < 0.1
    assert figures["num_rows"] == 20


@pytest.mark.parametrize("kind", small_speech.KINDS)
def test_every_kind_trains_and_its_folder_gives_the_recorded_figures(recipe_for, speech_model, tmp_path, kind):
    run = train(recipe_for(speech_model(kind), training={"num_steps": 3}), tmp_path)
    facts = run.read_facts()
    for batch_size in (1, 5):
        figures = api.evaluate(run.path, overrides={"evaluation.batch_size": batch_size})
        for name in ("loss", "word_error_rate", "character_error_rate"):
            assert figures[name] == pytest.approx(facts["evaluation"][name], rel=1e-4), name
    assert facts["data"]["splits"]["train"]["unknown_tokens"] == 0


def test_the_convolutions_stay_unless_told_otherwise(recipe_for, speech_model, tmp_path):
    for kind in ("wav2vec2-group", "wavlm-layer"):
        recipe = recipe_for(speech_model(kind))
        moved = changed(recipe, train(recipe, tmp_path, kind))
        assert moved
        assert not [name for name in moved if ".feature_extractor." in name]
    recipe = recipe_for(speech_model("wav2vec2-group"), model={"freeze_feature_encoder": False})
    assert [name for name in changed(recipe, train(recipe, tmp_path, "all")) if ".feature_extractor." in name]


@pytest.mark.parametrize(
    ("changes", "moving"),
    [
        ({"model": {"freeze": ["all_but_head"]}}, ("lm_head.",)),
        ({"model": {"freeze": ["*.encoder.layers.0.*"]}}, ("lm_head.", "wav2vec2.encoder.layers.1.", "wav2vec2.encoder.layer_norm")),
        ({"training": {"unfreeze_every_steps": 100}}, ("lm_head.",)),
    ],
)
def test_freezing_by_name_and_gradual_unfreezing(recipe_for, speech_model, tmp_path, changes, moving):
    recipe = recipe_for(speech_model("wav2vec2-layer"), **changes)
    moved = changed(recipe, train(recipe, tmp_path))
    assert all(any(name.startswith(prefix) for name in moved) for prefix in moving)
    if changes.get("model", {}).get("freeze") == ["*.encoder.layers.0.*"]:
        assert not [name for name in moved if ".encoder.layers.0." in name]
    else:
        assert all(name.startswith(moving) for name in moved)


def test_defaults_are_safe_and_the_recipe_wins(recipe_for, speech_model, tmp_path):
    saved = json.loads((train(recipe_for(speech_model("wav2vec2-layer")), tmp_path).model / "config.json").read_text())
    assert (saved["layerdrop"], saved["ctc_zero_infinity"], saved["ctc_loss_reduction"]) == (0.0, True, "mean")
    task = SpeechRecognition(recipe_for(speech_model("wav2vec2-layer"), model={"layerdrop": 0.25}))
    task.prepare()
    assert task.build_model().config.layerdrop == 0.25


def test_clips_shorter_than_a_span_of_spec_augment_are_learnt(recipe_for, speech_model, tmp_path):
    short = small_speech.write_recordings(tmp_path / "short", {"train": 8, "validation": 2}, longest=1)
    model = {"mask_time_prob": 0.6, "mask_time_length": 40, "mask_time_min_masks": 2}
    run = train(recipe_for(speech_model("wav2vec2-layer"), data={"path": str(short)}, model=model), tmp_path)
    assert run.read_facts()["status"] == "finished"


def test_clips_without_room_for_a_frame_are_evaluated(recipe_for, speech_model, tmp_path):
    import numpy as np
    import soundfile

    data = small_speech.write_recordings(tmp_path / "data", {"train": 6, "validation": 2})
    for number, length in enumerate((5, 90)):
        soundfile.write(data / "validation" / f"tiny{number}.wav", np.full(length, 0.1), small_speech.RATE)
        (data / "validation" / f"tiny{number}.txt").write_text("a")
    for kind in ("wav2vec2-group", "wav2vec2-layer"):
        run = train(recipe_for(speech_model(kind), data={"path": str(data)}, training={"num_steps": 2}), tmp_path, kind)
        recorded = run.read_facts()["evaluation"]
        assert recorded["num_rows"] == 4
        assert api.evaluate(run.path, overrides={"evaluation.batch_size": 1})["loss"] == pytest.approx(recorded["loss"], rel=1e-4)


@pytest.mark.parametrize("kind", ["wav2vec2-group", "wav2vec2-layer"])
def test_who_is_warned_of_padding(recipe_for, speech_model, tmp_path, caplog, kind):
    train(recipe_for(speech_model(kind), training={"num_steps": 1}), tmp_path)
    assert ("changes with the padding after it" in caplog.text) == (kind == "wav2vec2-group")
    assert caplog.text.count("changes with the padding") <= 1


def test_accumulation_equals_one_large_batch(recipe_for, speech_model, tmp_path):
    folder = speech_model("wav2vec2-layer")
    runs = [
        train(recipe_for(folder, model=STILL, training={"gradient_accumulation_steps": passes, "batch_size": 8}), tmp_path, f"in-{passes}")
        for passes in (1, 4, 8)
    ]
    losses = [[line["loss"] for line in run.read_metrics()] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=2e-5)
    assert losses[0] == pytest.approx(losses[2], rel=2e-5)


WAYS = {
    "group norm": ("wav2vec2-group", {}),
    "layer norm, layers dropped": ("wav2vec2-layer", {"model": {"layerdrop": 0.3, "mask_time_prob": 0.3, "mask_time_length": 3}}),
    "new head, unfreezing": ("hubert-layer", {"model": {"new_head": True}, "training": {"unfreeze_every_steps": 2}}),
    "lora": ("wavlm-group", {"model": {"lora": {"rank": 2, "dropout": 0.1}}}),
}


@pytest.mark.parametrize("way", WAYS)
def test_resumed_is_uninterrupted_bit_for_bit(recipe_for, speech_model, tmp_path, monkeypatch, way):
    if way == "lora":
        pytest.importorskip("peft")
    kind, changes = copy.deepcopy(WAYS[way])
    changes.setdefault("training", {}).update({"gradient_accumulation_steps": 2, "checkpoint_every_steps": 2})
    recipe = recipe_for(speech_model(kind), **changes, data={"speed_percents": [90, 100, 110], "noise_probability": 0.5})
    expected = train(recipe, tmp_path, "whole")
    original, calls = SpeechRecognition.loss, []

    def interrupting(self, model, batch, carried):
        calls.append(1)
        if len(calls) == 7:  # in the middle of the fourth step
            signal.raise_signal(signal.SIGINT)
        return original(self, model, batch, carried)

    monkeypatch.setattr(SpeechRecognition, "loss", interrupting)
    with pytest.raises(TrainingInterrupted):
        train(recipe, tmp_path, "cut")
    monkeypatch.undo()
    assert_same(loop.resume(tmp_path / "cut"), expected)


@pytest.mark.parametrize("kind", ["wav2vec2-layer", "conformer-layer", "unispeech-sat-group"])
def test_a_new_head_comes_on_a_pre_trained_model_and_writes_the_letters_of_the_data(recipe_for, speech_model, tmp_path, kind, capfd):
    folder = speech_model(kind, "ForPreTraining")
    with pytest.raises(UserError, match=r"no tokenizer that can be loaded.*model\.new_head: true"):
        train(recipe_for(folder), tmp_path, "refused")
    run = train(recipe_for(folder, model={"new_head": True}), tmp_path)
    told = capfd.readouterr()
    assert "quantizer" not in told.out + told.err  # what a new head leaves over and lacks is as it should be
    saved = AutoModelForCTC.from_pretrained(run.model)
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(run.model)
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary, key=vocabulary.get) == ["<pad>", "<unk>", "|", *small_speech.LETTERS]
    assert (saved.config.vocab_size, saved.config.pad_token_id, saved.lm_head.out_features) == (7, 0, 7)


def test_an_own_recogniser_is_trained_on(recipe_for, tmp_path):
    """Of the recurrent family, with its head and with a new one."""
    recipe = recipe_for("ignored")
    recipe.model.pretrained, recipe.model.family = None, "recurrent"
    recipe.model.config = {"cell_type": "gru", "hidden_size": 16, "num_mel_bins": 20, "bidirectional": True}
    first = train(recipe, tmp_path, "first")
    for model in ({}, {"new_head": True}):
        second = train(recipe_for(str(first.path), model=model), tmp_path, "second")
        assert changed(recipe_for(str(first.model)), second)
        assert json.loads((second.model / "preprocessor_config.json").read_text())["mean"] is not None
        assert api.evaluate(second.path)["loss"] == pytest.approx(second.read_facts()["evaluation"]["loss"], rel=1e-5)
        shutil.rmtree(second.path)
    with pytest.raises(UserError, match=r"freeze_feature_encoder is true, but RecurrentForCTC has no"):
        train(recipe_for(str(first.path), model={"freeze_feature_encoder": True}), tmp_path, "third")


def test_a_wav2vec2_run_is_trained_on(recipe_for, speech_model, tmp_path):
    first = train(recipe_for(speech_model("wav2vec2-layer"), model=STILL), tmp_path, "first")
    second = train(recipe_for(str(first.path), model=STILL), tmp_path, "second")
    losses = [[line["loss"] for line in run.read_metrics() if line["kind"] == "train"] for run in (first, second)]
    assert losses[1][0] < losses[0][0]


def test_capitals_are_learnt_as_capitals(recipe_for, speech_model, tmp_path):
    folder = speech_model("wav2vec2-group", upper=True)
    recipe = recipe_for(folder, training={"num_steps": 2})
    task = SpeechRecognition(recipe)
    task.prepare()
    clips = task.prepared.splits["train"]
    spelled = ["".join(task.tokenizer.convert_ids_to_tokens(labels.tolist())).replace("|", " ") for labels in clips.labels]
    assert spelled == [text.upper() for text in clips.rows.texts]
    assert task.prepared.facts["splits"]["train"]["unknown_tokens"] == 0
    run = train(recipe, tmp_path)
    assert api.evaluate(run.path)["loss"] == pytest.approx(run.read_facts()["evaluation"]["loss"], rel=1e-4)


def test_characters_that_the_tokenizer_lacks_are_told(recipe_for, speech_model, tmp_path, caplog):
    data = small_speech.write_recordings(tmp_path / "data", {"train": 6, "validation": 2})
    for file in (data / "train").glob("*.txt"):
        file.write_text(file.read_text().replace("a", "é"))
    with caplog.at_level(logging.WARNING):
        task = SpeechRecognition(recipe_for(speech_model("wav2vec2-layer"), data={"path": str(data)}))
        task.prepare()
    assert "'é' (" in caplog.text
    assert "model.new_head: true" in caplog.text
    assert task.prepared.facts["splits"]["train"]["unknown_tokens"] > 0


def test_a_folder_without_feature_extractor_or_with_another_tokenizer_is_refused(recipe_for, speech_model, tmp_path):
    shutil.copytree(speech_model("wav2vec2-layer"), tmp_path / "model")
    vocabulary = {"<pad>": 0, "<unk>": 1, **{letter: 2 + place for place, letter in enumerate("abcdefgh")}}
    (tmp_path / "model" / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(UserError, match="has 7 outputs and its tokenizer 10 tokens"):
        train(recipe_for(str(tmp_path / "model")), tmp_path)
    (tmp_path / "model" / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"no feature extractor .*preprocessor_config\.json of the model that it was trained from"):
        train(recipe_for(str(tmp_path / "model")), tmp_path)


def test_a_model_that_hears_nothing_is_refused(recipe_for, speech_model, tmp_path):
    shutil.copytree(speech_model("wav2vec2-layer"), tmp_path / "text")
    BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)).save_pretrained(tmp_path / "text")
    with pytest.raises(UserError, match="a bert model, which transformers has no ForCTC of"):
        train(recipe_for(str(tmp_path / "text"), model={"new_head": True}), tmp_path)


@pytest.mark.parametrize(
    ("family", "config", "expected"),
    [("gpt2", {}, "gpt2.*choose from"), ("wav2vec2", {"hiden_size": 8}, "Did you mean 'hidden_size'"), ("wav2vec2", {"conv_dim": [8]}, "conv_dim")],
)
def test_families_that_do_not_hear_and_impossible_shapes_are_refused(recipe_for, family, config, expected):
    recipe = recipe_for("ignored")
    recipe.model.pretrained, recipe.model.family, recipe.model.config = None, family, config
    with pytest.raises(UserError, match=expected):
        check_recipe(recipe)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize(("head", "new_head"), [("ForCTC", False), ("ForPreTraining", True)])
def test_lora_leaves_a_folder_that_evaluates(recipe_for, speech_model, tmp_path, head, new_head, merge):
    pytest.importorskip("peft")
    folder = speech_model("wav2vec2-layer", head)
    model = {"lora": {"rank": 2, "merge": merge}, "new_head": new_head}
    recipe = recipe_for(folder, model=model, training={"learning_rate": 0.02})
    run = train(recipe, tmp_path)
    assert (run.model / "adapter_model.safetensors").is_file() != merge
    facts = run.read_facts()
    assert facts["model"]["num_trained_parameters"] < facts["model"]["num_parameters"] / 4
    figures = api.evaluate(run.path)
    for name in ("loss", "character_error_rate"):
        assert figures[name] == pytest.approx(facts["evaluation"][name], rel=1e-4), name
    losses = [line["loss"] for line in run.read_metrics() if line["kind"] == "train"]
    assert losses[-1] < losses[0]


def test_an_adapter_is_found_from_any_folder_and_names_a_base_that_is_gone(recipe_for, speech_model, recordings, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    shutil.copytree(speech_model("wav2vec2-layer"), tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    run = train(recipe_for("base", model={"lora": {"rank": 2, "merge": False}}, training={"num_steps": 1}), tmp_path)
    monkeypatch.chdir("/")
    assert api.evaluate(run.model, str(recordings / "validation"))["num_rows"] == 6
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(UserError, match=r"an adapter of the model .*base', which cannot be loaded .*base_model_name_or_path"):
        api.evaluate(run.model, str(recordings / "validation"))


@pytest.mark.parametrize("kind", small_speech.KINDS)
def test_an_adapter_has_an_effect_and_gets_a_gradient(recipe_for, speech_model, kind):
    pytest.importorskip("peft")
    task = SpeechRecognition(recipe_for(speech_model(kind), model={"lora": {"rank": 2}}))
    task.prepare()
    model = task.build_model().train()
    loss, _ = task.loss(model, task.batches().batch(0, slice(0, 4)), None)
    loss.backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert all(parameter.grad is not None for parameter in trained.values())
    assert any(parameter.grad.any() for parameter in trained.values())


def test_layers_whose_adapter_would_be_passed_by_are_refused(recipe_for, speech_model):
    pytest.importorskip("peft")
    task = SpeechRecognition(recipe_for(speech_model("wavlm-layer"), model={"lora": {"target_modules": ["q_proj"]}}))
    task.prepare()
    with pytest.raises(UserError, match="past any adapter"):
        task.build_model()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": {"lora": {}, "freeze_feature_encoder": True}}, r"model\.freeze_feature_encoder has nothing to decide"),
        ({"data": {"speed_percents": [20]}}, "speed_percents"),
    ],
)
def test_wrong_combinations_are_refused(recipe_for, changes, expected):
    with pytest.raises(UserError, match=expected):
        check_recipe(recipe_for("folder", **changes))


def test_a_family_s_model_has_nothing_to_freeze(recipe_for):
    recipe = recipe_for("folder")
    values = recipe.to_dict()
    values["model"] = {"family": "wav2vec2", "freeze_feature_encoder": True}
    with pytest.raises(UserError, match=r"freeze_feature_encoder is about a pretrained model"):
        parse_recipe(values)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_the_family_trains_from_scratch(recipe_for, tmp_path, norm):
    recipe = recipe_for("ignored")
    recipe.model.pretrained, recipe.model.family = None, "wav2vec2"
    shape = {**small_speech.SIZES, **small_speech.CONVOLUTIONS, **small_speech.POSITIONS}
    recipe.model.config = {**shape, "feat_extract_norm": norm, "do_stable_layer_norm": norm == "layer"}
    run = train(recipe, tmp_path)
    assert not list(run.model.glob("*.py"))
    extractor = json.loads((run.model / "preprocessor_config.json").read_text())
    assert (extractor["return_attention_mask"], extractor["sampling_rate"]) == (norm == "layer", 16000)
    assert run.read_facts()["model"]["num_trained_parameters"] == run.read_facts()["model"]["num_parameters"]
    assert api.evaluate(run.path)["loss"] == pytest.approx(run.read_facts()["evaluation"]["loss"], rel=1e-4)


def test_data_of_the_user_are_evaluated(recipe_for, speech_model, recordings, tmp_path):
    run = train(recipe_for(speech_model("wav2vec2-layer")), tmp_path)
    assert api.evaluate(run.path, str(recordings / "validation"))["num_rows"] == 6
    assert api.evaluate(run.model, str(recordings), split="validation")["num_rows"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wav2vec2-layer", "wav2vec2-group"])
def test_two_processes_train_and_evaluate_as_one(recipe_for, speech_model, tmp_path, kind):
    recipe = recipe_for(speech_model(kind), model={**STILL, "new_head": True})
    recipe.save(tmp_path / "small.yaml")
    runs = []
    for num_processes in (1, 2):
        name = f"on-{num_processes}"
        finish(launch([str(tmp_path / "small.yaml"), "--output", str(tmp_path), "--run", name], num_processes))
        runs.append(RunFolder(tmp_path / name))
    losses = [[line["loss"] for line in run.read_metrics()] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4 if kind == "wav2vec2-layer" else 5e-3)  # which clips are run together differs a little
    one, two = (run.read_facts()["evaluation"] for run in runs)
    assert (one["num_rows"], one["num_words"]) == (two["num_rows"], two["num_words"])
