"""Every task beside causal language modelling, on small data made on the spot: learning, resuming, accumulating, evaluating, wrong choices."""

import json
import math
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from hflab import api
from hflab.errors import UserError
from hflab.run_folder import RunFolder
from hflab.training import loop
from hflab.training.interruption import TrainingInterrupted
from hflab.training.tasks import TASKS, check_recipe

from .conftest import TASK_FAMILIES

TASKS_ONCE = list(dict(reversed(TASK_FAMILIES)))  # one family of each is enough where the loop is what is tested
PLAIN = {"recurrent": {"output_dropout": 0.0}, "mini_transformer": {"hidden_dropout": 0.0, "embedding_dropout": 0.0}}


def train(recipe, tmp_path, name="small"):
    return loop.train(recipe, name=name, output=tmp_path)


def lines(run, kind):
    return [{key: value for key, value in line.items() if key != "timing"} for line in run.read_metrics() if line["kind"] == kind]


def interrupt(monkeypatch, task, number):
    """Send this process a real SIGINT in the n-th forward pass from now."""
    original, calls = TASKS[task].loss, []

    def interrupting(self, model, batch, carried):
        calls.append(1)
        if len(calls) == number:
            signal.raise_signal(signal.SIGINT)
        return original(self, model, batch, carried)

    monkeypatch.setattr(TASKS[task], "loss", interrupting)


def test_every_task_is_tested():
    """Here, or where its data are made: recordings are no rows of text."""
    elsewhere = {
        "causal_lm": "test_loop.py",
        "speech_recognition": "test_speech_recognition_pretrained.py",
        "speech_pretraining": "test_speech_pretraining.py",
    }
    assert set(TASKS_ONCE) == set(TASKS) - set(elsewhere)
    assert all((Path(__file__).parent / file).is_file() for file in elsewhere.values())


@pytest.mark.parametrize(("task", "family"), TASK_FAMILIES)
def test_a_task_learns_and_its_saved_model_gives_the_recorded_figures(make_task_recipe, tmp_path, task, family):
    recipe = make_task_recipe(task, family, training={"num_steps": 60})
    run = train(recipe, tmp_path)
    logged, evaluations, facts = lines(run, "train"), lines(run, "evaluation"), run.read_facts()
    assert logged[-1]["loss"] < logged[0]["loss"] - 0.2
    assert "bits_per_character" not in logged[0]
    assert evaluations[-1]["loss"] < evaluations[0]["loss"]
    assert evaluations[0]["sample"].count(" → ") == 2
    assert facts["training"]["steps"] == 60
    assert "characters" not in facts["training"]
    assert run.read_recipe() == recipe
    figures = api.evaluate(run.path)
    shown = TASKS[task](recipe).figures
    assert {*shown.metrics, shown.counted, shown.headline, shown.watched} <= set(figures)
    for name in shown.metrics:
        assert figures[name] == pytest.approx(facts["evaluation"][name], rel=1e-5), name


@pytest.mark.parametrize("task", TASKS_ONCE)
@pytest.mark.parametrize("number", [5, 14], ids=lambda number: f"pass-{number}")
def test_resumed_is_uninterrupted_bit_for_bit(make_task_recipe, tmp_path, monkeypatch, task, number):
    settings = {"gradient_accumulation_steps": 2, "log_every_steps": 5, "checkpoint_every_steps": 4}
    recipe = make_task_recipe(task, dict(reversed(TASK_FAMILIES))[task], training=settings)
    expected = train(recipe, tmp_path, "whole")
    interrupt(monkeypatch, task, number)
    with pytest.raises(TrainingInterrupted):
        train(recipe, tmp_path, "cut")
    monkeypatch.undo()
    run = loop.resume(tmp_path / "cut")
    assert run.read_metrics()
    assert [lines(run, kind) for kind in ("train", "evaluation")] == [lines(expected, kind) for kind in ("train", "evaluation")]
    weights, expected_weights = (load_file(folder.model / "model.safetensors") for folder in (run, expected))
    assert all(torch.equal(weights[key], expected_weights[key]) for key in expected_weights)


@pytest.mark.parametrize(("task", "family"), TASK_FAMILIES)
def test_accumulation_equals_one_large_batch(make_task_recipe, tmp_path, task, family):
    runs = [
        train(make_task_recipe(task, family, model=PLAIN[family], training={"gradient_accumulation_steps": passes}), tmp_path) for passes in (1, 2, 4)
    ]
    losses = [[line["loss"] for line in lines(run, "train")] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=2e-5)
    assert losses[0] == pytest.approx(losses[2], rel=2e-5)


@pytest.mark.parametrize("task", TASKS_ONCE)
def test_a_budget_in_epochs(make_task_recipe, tmp_path, task):
    run = train(make_task_recipe(task, training={"num_steps": None, "num_epochs": 1, "batch_size": 32}), tmp_path)
    assert run.read_facts()["training"]["epochs"] == pytest.approx(1, abs=0.15)


def test_early_stopping_goes_by_the_task_s_own_figure_in_its_own_direction(make_task_recipe, tmp_path):
    pytest.importorskip("sacrebleu")
    settings = {"num_steps": 60, "learning_rate": 0.03, "schedule": "constant", "evaluate_every_steps": 4, "early_stopping_patience": 3}
    recipe = make_task_recipe("seq2seq", "recurrent", processor={"tokenizer": "character"}, training=settings, evaluation={"max_examples": None})
    run = train(recipe, tmp_path)
    best = max(line["chrf"] for line in lines(run, "evaluation"))
    assert run.read_facts()["evaluation"]["chrf"] == pytest.approx(best, rel=1e-6)


def test_a_trained_seq2seq_model_says_how_it_generates(make_task_recipe, tmp_path):
    run = train(make_task_recipe("seq2seq", evaluation={"num_beams": 3}), tmp_path)
    config, tokenizer = AutoConfig.from_pretrained(run.model), AutoTokenizer.from_pretrained(run.model)
    generation = GenerationConfig.from_pretrained(run.model)
    assert config.is_encoder_decoder
    assert (config.decoder_start_token_id, config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id,) * 2 + (tokenizer.pad_token_id,)
    assert (generation.num_beams, generation.eos_token_id) == (3, tokenizer.eos_token_id)
    assert 6 < generation.max_length <= 10
    assert tokenizer("a b")["input_ids"][-1] == tokenizer.eos_token_id
    assert list(tokenizer("a b")) == ["input_ids", "attention_mask"]
    (answer,) = api.generate(run.path, "a b c")
    assert set(answer.split()) <= set("ABCDEF") | set("abcdef")
    with pytest.raises(UserError, match="'z'"):
        api.generate(run.path, "a z c")
    with pytest.raises(UserError, match="prompt is empty"):
        api.generate(run.path, "")


@pytest.mark.parametrize("task", ["text_classification", "token_classification"])
def test_a_trained_classifier_names_its_classes(make_task_recipe, example_files, tmp_path, task):
    run = train(make_task_recipe(task), tmp_path)
    names = json.loads((run.model / "config.json").read_text(encoding="utf-8"))["id2label"]
    assert list(names.values()) == {"text_classification": ["king", "queen"], "token_classification": ["consonant", "vowel"]}[task]
    own = tmp_path / "one_class.jsonl"
    rows = [json.loads(line) for line in example_files[task].read_text(encoding="utf-8").splitlines()]
    column = {"text_classification": "label", "token_classification": "labels"}[task]
    kept = [row for row in rows if row[column] in ("queen", ["consonant"] * len(row[column]))]
    own.write_text("\n".join(json.dumps(row) for row in kept), encoding="utf-8")
    figures = api.evaluate(run.path, str(own))  # the classes are the model's, also where the rows have fewer
    assert figures["num_rows"] == len(kept)
    assert math.isnan(figures["auc"])
    own.write_text(json.dumps({**kept[0], column: "duke" if column == "label" else ["duke"] * len(kept[0]["tokens"])}), encoding="utf-8")
    with pytest.raises(UserError, match=r"'duke'.*choose from"):
        api.evaluate(run.path, str(own))


@pytest.mark.parametrize("task", TASKS_ONCE)
def test_own_data_and_a_report(make_task_recipe, example_files, tmp_path, task):
    run = train(make_task_recipe(task), tmp_path)
    report = tmp_path / "reports" / "report.md"
    figures = api.evaluate(run.path, str(example_files[task]), report=report)
    text = report.read_text(encoding="utf-8")
    shown = TASKS[task](run.read_recipe()).figures
    assert "## The 20 worst rows" in text
    assert "## The 20 best rows" in text
    assert f"| {shown.headline.replace('_', ' ')} | {figures[shown.headline]:.4f} |" in text
    with pytest.raises(UserError, match=f"give FILE.md for {task}"):
        api.evaluate(run.path, report=tmp_path / "report.html")
    errors = [
        float(line.split("|")[1]) for line in text.split("## The 20 worst rows")[1].splitlines() if line.startswith("| 0") or line[2:3].isdigit()
    ]
    worst, best = errors[:20], errors[20:]
    assert worst == sorted(worst, reverse=True)
    assert best == sorted(best)
    assert len(best) == 20


def test_running_text_has_no_report(make_recipe, tmp_path):
    run = train(make_recipe(), tmp_path)
    with pytest.raises(UserError, match="no rows"):
        api.evaluate(run.path, report=tmp_path / "report.md")


def test_training_rows_are_sources_when_they_are_evaluated(make_task_recipe, tmp_path):
    own = tmp_path / "pairs.jsonl"
    pairs = [("a b", "B A"), ("a b", "A B"), *((f"{x} {y}", f"{y} {x}") for x in "cdefgh" for y in "cdefgh")]
    own.write_text("\n".join(json.dumps({"source": source, "target": target}) for source, target in pairs * 2), encoding="utf-8")
    run = train(make_task_recipe("seq2seq", data={"path": str(own)}), tmp_path)
    assert api.evaluate(run.path, str(own))["num_rows"] == 37


@pytest.mark.parametrize(
    ("task", "family", "changes", "expected"),
    [
        ("masked_lm", "recurrent", {}, "ForPreTraining.*choose from.*ForCausalLM.*ForSequenceClassification"),
        ("masked_lm", "mini_transformer", {"model": {"type_vocab_size": 0}}, "two segments"),
        ("masked_lm", "mini_transformer", {"data": {"source": "cmudict"}}, "data.source"),
        ("seq2seq", "recurrent", {"data": {"source": "bbc_news"}}, "hsk_sentences"),
        ("seq2seq", "recurrent", {"data": {"source": "cmudictt"}}, "'cmudict'"),
        ("seq2seq", "mini_transformer", {"data": {"max_source_tokens": 65}}, "64 positions"),
        ("text_classification", "recurrent", {"evaluation": {"num_beams": 2}}, "only seq2seq"),
        ("text_classification", "recurrent", {"model": {"pooling": "first"}}, "pooling"),
        ("token_classification", "mini_transformer", {"model": {"num_labels": 2}}, "num_labels"),
        ("seq2sec", "recurrent", {}, "'seq2seq'"),
    ],
)
def test_wrong_combinations_are_refused_before_any_work(make_task_recipe, task, family, changes, expected):
    recipe = make_task_recipe(task if task in TASKS else "seq2seq", family, **changes)
    recipe.task = task
    with pytest.raises(UserError, match=expected):
        check_recipe(recipe)


@pytest.mark.parametrize("task", ["seq2seq", "masked_lm"])
def test_keys_that_a_task_would_not_read_are_refused(make_task_recipe, tmp_path, task):
    key = {"seq2seq": {"examples_per_class": 3}, "masked_lm": {"max_source_tokens": 9}}[task]
    with pytest.raises(UserError, match=next(iter(key))):
        train(make_task_recipe(task, data=key), tmp_path)
    assert not list(tmp_path.iterdir())


def test_data_without_a_validation_split_are_refused(make_task_recipe, tmp_path):
    with pytest.raises(UserError, match="validation_fraction"):
        train(make_task_recipe("text_classification", data={"validation_fraction": 0.0}), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "changes"),
    [
        *((task, {}) for task in TASKS_ONCE),
        pytest.param("seq2seq", {"attention_type": "none", "block_style": "residual", "intermediate_size": 16}, id="parameters without a gradient"),
    ],
)
def test_two_processes_train_and_evaluate_as_one(make_task_recipe, tmp_path, task, changes):
    from .test_resume import finish, launch

    family = dict(reversed(TASK_FAMILIES))[task]
    recipe = make_task_recipe(task, family, model=PLAIN[family] | changes, training={"gradient_accumulation_steps": 2})
    recipe.save(tmp_path / "small.yaml")
    runs = []
    for num_processes in (1, 2):
        name = f"on-{num_processes}"
        finish(launch([str(tmp_path / "small.yaml"), "--output", str(tmp_path), "--run", name], num_processes))
        runs.append(RunFolder(tmp_path / name))
    for kind in ("train", "evaluation"):
        one, two = (lines(run, kind) for run in runs)
        assert [line["loss"] for line in one] == pytest.approx([line["loss"] for line in two], rel=1e-4)
    one, two = (run.read_facts()["evaluation"] for run in runs)
    for name in TASKS[task](recipe).figures.metrics:
        assert one[name] == pytest.approx(two[name], rel=1e-3, abs=1e-3), name
    assert {name: value for name, value in one.items() if name.startswith("num_")} == {
        name: value for name, value in two.items() if name.startswith("num_")
    }
