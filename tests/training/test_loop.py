"""The loop: what a run leaves behind, budgets, early stopping, averages, trackers, and clear ends."""

import json
import math
import os
import subprocess

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hflab.errors import UserError
from hflab.evaluation.evaluator import evaluate_language_model
from hflab.models.recurrent.cells_recurrent import CELLS
from hflab.training import loop
from hflab.training.checkpoints import list_checkpoints
from hflab.training.tasks import CausalLanguageModeling, check_recipe


def train(recipe, tmp_path, **arguments):
    return loop.train(recipe, name="small", output=tmp_path, **arguments)


def train_lines(run):
    return [line for line in run.read_metrics() if line["kind"] == "train"]


def evaluations(run):
    return [line for line in run.read_metrics() if line["kind"] == "evaluation"]


def test_a_run_leaves_all_that_later_stages_read(make_recipe, tmp_path):
    recipe = make_recipe()
    run = train(recipe, tmp_path, command="hflab train small")
    facts = run.read_facts()
    assert facts["status"] == "finished"
    assert facts["command"] == "hflab train small"
    assert facts["training"]["steps"] == 12
    assert facts["training"]["stopped_by"] == "budget"
    assert facts["data"]["license"] == "cc0-1.0"
    assert run.read_recipe() == recipe
    assert [line["step"] for line in train_lines(run)] == [2, 4, 6, 8, 10, 12]
    assert train_lines(run)[-1]["tokens"] == 12 * 8 * 16
    assert evaluations(run)[-1]["loss"] < evaluations(run)[0]["loss"]
    assert evaluations(run)[-1]["sample"].startswith("the ")
    assert not list(run.path.rglob("*.partial"))
    pickles = {".bin", ".pt", ".pkl", ".pickle"}
    assert [file.name for file in run.model.rglob("*") if file.suffix in pickles] == []


def test_the_saved_model_gives_the_recorded_figure(make_recipe, tmp_path):
    recipe = make_recipe(data={"test_fraction": 0.1})
    run = train(recipe, tmp_path)
    task = CausalLanguageModeling(recipe)
    task.prepare()
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    model = AutoModelForCausalLM.from_pretrained(run.model)
    recorded = run.read_facts()["evaluation"]
    assert recorded["split"] == "test"
    figures = evaluate_language_model(model, task.prepared.splits["test"], batch_size=4, sequence_length=16, eos_token_id=tokenizer.eos_token_id)
    assert figures["loss"] == pytest.approx(recorded["loss"], rel=1e-6)


def test_same_seed_same_run_and_another_seed_another(make_recipe, tmp_path):
    losses = [[line["loss"] for line in train_lines(train(make_recipe(training={"seed": seed}), tmp_path))] for seed in (1, 1, 2)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


@pytest.mark.parametrize("cell_type", CELLS)
@pytest.mark.parametrize("layout", ["lanes", "windows"])
def test_every_cell_learns_in_every_layout(make_recipe, tmp_path, cell_type, layout):
    recipe = make_recipe(model={"cell_type": cell_type}, data={"layout": layout}, training={"num_steps": 30})
    lines = train_lines(train(recipe, tmp_path))
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.2


def test_accumulation_equals_one_large_batch(make_recipe, tmp_path):
    plain = {"model": {"recurrent_dropout": 0.0, "input_dropout": 0.0}}
    runs = [train(make_recipe(**plain, training={"gradient_accumulation_steps": passes}), tmp_path) for passes in (1, 2, 4)]
    losses = [[line["loss"] for line in train_lines(run)] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] == pytest.approx(losses[2], rel=1e-5)


def test_budgets_in_epochs_and_seconds(make_recipe, tmp_path):
    run = train(make_recipe(training={"num_steps": None, "num_epochs": 2}), tmp_path)
    assert run.read_facts()["training"]["epochs"] == pytest.approx(2, abs=0.05)
    run = train(make_recipe(training={"num_steps": None, "max_seconds": 0.3}), tmp_path)
    assert 0.3 <= run.read_facts()["training"]["seconds"] < 3.0
    assert train_lines(run)[-1]["learning_rate"] < 0.01


def test_early_stopping_returns_to_the_best_weights(make_recipe, tmp_path):
    settings = {"num_steps": 60, "learning_rate": 0.3, "schedule": "constant", "evaluate_every_steps": 2, "early_stopping_patience": 2}
    run = train(make_recipe(training=settings), tmp_path)
    facts = run.read_facts()
    assert facts["training"]["stopped_by"] == "early stopping"
    assert facts["training"]["steps"] < 60
    assert facts["evaluation"]["loss"] == pytest.approx(min(line["loss"] for line in evaluations(run)), rel=1e-6)


@pytest.mark.parametrize("averaging", ["ema", "asgd"])
def test_averaged_weights_are_what_is_evaluated_and_saved(make_recipe, tmp_path, averaging):
    averaged = train(make_recipe(training={"averaging": averaging, "averaging_decay": 0.9}), tmp_path)
    plain = train(make_recipe(), tmp_path)
    assert [line["loss"] for line in train_lines(averaged)] == [line["loss"] for line in train_lines(plain)]
    assert averaged.read_facts()["evaluation"]["loss"] != plain.read_facts()["evaluation"]["loss"]


def test_bf16_trains(make_recipe, tmp_path):
    lines = train_lines(train(make_recipe(training={"mixed_precision": "bf16", "num_steps": 30}), tmp_path))
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.2


def test_tensorboard_gets_the_figures_without_a_network(make_recipe, tmp_path):
    pytest.importorskip("tensorboard")
    run = train(make_recipe(tracking={"trackers": ["tensorboard"]}), tmp_path)
    assert list(run.path.rglob("events.out.tfevents*"))


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(make_recipe, tmp_path, monkeypatch):
    recipe = make_recipe(training={"checkpoint_every_steps": 2, "log_every_steps": 1})
    original = CausalLanguageModeling.loss
    calls = []

    def spoil_fifth(self, model, batch, carried):
        calls.append(1)
        if len(calls) == 5:
            with torch.no_grad():
                next(model.parameters()).fill_(math.nan)
        return original(self, model, batch, carried)

    monkeypatch.setattr(CausalLanguageModeling, "loss", spoil_fifth)
    with pytest.raises(UserError, match=r"became nan by step 5.*lower --training.learning_rate"):
        train(recipe, tmp_path)
    run = loop.RunFolder(tmp_path / "small")
    assert run.read_facts()["status"] == "failed"
    assert [path.name for path in list_checkpoints(run.checkpoints)] == ["step-00000002", "step-00000004"]
    monkeypatch.undo()
    assert loop.resume(run.path).read_facts()["status"] == "finished"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_said_and_nothing_saved_is_lost(make_recipe, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        recipe = make_recipe(model={"hidden_size": 24}, training={"checkpoint_every_steps": 2, "keep_checkpoints": 10})
        with pytest.raises(UserError, match=r"disk .* is full"):
            train(recipe, disk)
        run = loop.RunFolder(disk / "small")
        kept = list_checkpoints(run.checkpoints)
        assert kept
        assert all(json.loads((path / "checkpoint.json").read_text())["progress"]["step"] for path in kept)
        assert not list(run.path.rglob("*.partial"))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data": {"source": "shakespear"}}, "'shakespeare'"),
        ({"model": {"hidden_sise": 8}}, "'hidden_size'"),
        ({"model": {"cell_type": "gruu"}}, "'gru'"),
        ({"model": {"family": "recurent"}}, "'recurrent'"),
        ({"model": {"bidirectional": True}}, "left to right"),
        ({"training": {"optimizer": "adamv"}}, "'adamw'"),
        ({"training": {"mixed_precision": "fp16"}}, "needs a GPU"),
    ],
)
def test_choices_are_checked_before_any_work(make_recipe, changes, expected):
    with pytest.raises(UserError, match=expected):
        check_recipe(make_recipe(**changes))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_said(make_recipe):
    with pytest.raises(UserError, match="no such device"):
        check_recipe(make_recipe(training={"device": "cuda"}))


def test_trackers_by_another_name_are_refused(make_recipe, tmp_path):
    with pytest.raises(UserError, match="'trackio'"):
        train(make_recipe(tracking={"trackers": ["tracio"]}), tmp_path)
    assert not list(tmp_path.iterdir())
