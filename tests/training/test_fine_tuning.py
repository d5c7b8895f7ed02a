"""Fine-tuning through the loop: what is trained and what is not, exact resume, and the folders that come out."""

import copy
import json
import signal

import pytest
import torch
from safetensors.torch import load_file
from test_resume import assert_same
from transformers import AutoModelForCausalLM

from hflab.errors import UserError
from hflab.training import loop
from hflab.training.checkpoints import list_checkpoints
from hflab.training.interruption import TrainingInterrupted
from hflab.training.tasks import CausalLanguageModeling

KINDS = ["gpt2", "lstm", "mini_transformer"]
WAYS = {
    "full": {},
    "frozen": {"model": {"freeze": ["*.0.*"]}},
    "unfreezing": {"training": {"unfreeze_every_steps": 3, "weight_decay": 0.1}},
    "slower below": {"training": {"layer_learning_rate_decay": 0.4}},
    "lora": {"model": {"lora": {"rank": 2, "dropout": 0.1}}},
}


def changed(recipe, run):
    """Names of the weights that training changed."""
    before, after = load_file(f"{recipe.model.pretrained}/model.safetensors"), load_file(run.model / "model.safetensors")
    assert before.keys() == after.keys()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_learns(fine_tuning_recipe, tmp_path, kind, way):
    changes = copy.deepcopy(WAYS[way])
    changes.setdefault("training", {}).update({"num_steps": 30, "learning_rate": 3e-3, "log_every_steps": 5})
    run = loop.train(fine_tuning_recipe(kind, **changes), name="tuned", output=tmp_path)
    losses = [line["loss"] for line in run.read_metrics() if line["kind"] == "train"]
    assert losses[-1] < losses[0]
    facts = run.read_facts()["model"]
    assert (facts["num_trained_parameters"] < facts["num_parameters"]) == (way in ("frozen", "lora"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_resumed_is_uninterrupted(fine_tuning_recipe, tmp_path, monkeypatch, kind, way):
    changes = copy.deepcopy(WAYS[way])
    changes.setdefault("training", {}).update({"gradient_accumulation_steps": 2, "checkpoint_every_steps": 5})
    recipe = fine_tuning_recipe(kind, **changes)
    expected = loop.train(recipe, name="whole", output=tmp_path)
    original, calls = CausalLanguageModeling.loss, []

    def interrupting(self, model, batch, carried):
        calls.append(1)
        if len(calls) == 9:  # in the middle of the fifth step
            signal.raise_signal(signal.SIGINT)
        return original(self, model, batch, carried)

    monkeypatch.setattr(CausalLanguageModeling, "loss", interrupting)
    with pytest.raises(TrainingInterrupted):
        loop.train(recipe, name="cut", output=tmp_path)
    monkeypatch.undo()
    assert_same(loop.resume(tmp_path / "cut"), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_weights_stay_and_have_no_optimizer_state(fine_tuning_recipe, tmp_path, kind):
    pattern = {"gpt2": "transformer.h.0.*", "lstm": "model.layers.0.*", "mini_transformer": "model.layers.0.*"}[kind]
    recipe = fine_tuning_recipe(kind, model={"freeze": [pattern]}, training={"weight_decay": 0.1})
    run = loop.train(recipe, name="tuned", output=tmp_path)
    moved = changed(recipe, run)
    assert moved
    prefix = pattern.removesuffix("*")
    assert not [name for name in moved if name.startswith(prefix)]
    optimizer = torch.load(list_checkpoints(run.checkpoints)[-1] / "optimizer.bin", weights_only=True)
    model = AutoModelForCausalLM.from_pretrained(run.model)
    trained = [name for name, _ in model.named_parameters() if not name.startswith(prefix)]
    assert len(optimizer["state"]) == len(trained)
    assert sum(len(group["params"]) for group in optimizer["param_groups"]) == len(trained)


@pytest.mark.parametrize("kind", KINDS)
def test_gradual_unfreezing_goes_from_the_last_block_to_the_first(fine_tuning_recipe, tmp_path, kind):
    """With a step of 100, only the last group is ever trained; what is not yet trained does not decay either."""
    recipe = fine_tuning_recipe(kind, training={"unfreeze_every_steps": 100, "weight_decay": 0.5})
    run = loop.train(recipe, name="tuned", output=tmp_path)
    moved = changed(recipe, run)
    last = {"gpt2": ("transformer.h.1.", "transformer.ln_f."), "lstm": ("lm_head.",), "mini_transformer": ("model.layers.1.",)}[kind]
    assert moved
    assert {name for name in moved if not name.startswith(last)} == set()
    optimizer = torch.load(list_checkpoints(run.checkpoints)[-1] / "optimizer.bin", weights_only=True)
    assert 0 < len(optimizer["state"]) < sum(len(group["params"]) for group in optimizer["param_groups"])


def test_layers_below_learn_slower(fine_tuning_recipe, tmp_path):
    recipe = fine_tuning_recipe("gpt2", training={"layer_learning_rate_decay": 0.5, "num_steps": 2, "schedule": "constant"})
    run = loop.train(recipe, name="tuned", output=tmp_path)
    optimizer = torch.load(list_checkpoints(run.checkpoints)[-1] / "optimizer.bin", weights_only=True)
    rates = sorted({group["lr"] for group in optimizer["param_groups"]}, reverse=True)
    assert rates == pytest.approx([1e-3, 5e-4, 2.5e-4])  # last block with the final norm, first block, embeddings
    assert [line["learning_rate"] for line in run.read_metrics() if line["kind"] == "train"][-1] == pytest.approx(1e-3)


def test_a_run_begins_with_another_runs_model(fine_tuning_recipe, tmp_path):
    first = loop.train(fine_tuning_recipe("gpt2"), name="first", output=tmp_path)
    second = loop.train(fine_tuning_recipe("gpt2", model={"pretrained": str(first.path)}), name="second", output=tmp_path)
    losses = [[line["loss"] for line in run.read_metrics() if line["kind"] == "train"] for run in (first, second)]
    assert losses[1][0] < losses[0][0]


@pytest.mark.parametrize("layout", ["windows", "lanes"])
def test_gpt2_from_scratch_has_as_many_positions_as_a_window(make_recipe, tmp_path, layout):
    values = {"family": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}
    recipe = make_recipe(data={"layout": layout}, training={"num_steps": 4})
    recipe.model.family, recipe.model.config = "gpt2", {key: value for key, value in values.items() if key != "family"}
    if layout == "lanes":
        with pytest.raises(UserError, match="layout to windows"):
            loop.train(recipe, name="scratch", output=tmp_path)
        return
    run = loop.train(recipe, name="scratch", output=tmp_path)
    assert json.loads((run.model / "config.json").read_text())["n_positions"] == 16
    assert json.loads((run.model / "generation_config.json").read_text())["max_new_tokens"] == 8
    assert not list(run.model.glob("*.py"))


def test_windows_longer_than_the_positions_are_refused(fine_tuning_recipe, tmp_path):
    with pytest.raises(UserError, match="sequence_length is 40, but the model has 32 positions"):
        loop.train(fine_tuning_recipe("gpt2", data={"sequence_length": 40}), name="long", output=tmp_path)


def test_forgetting_is_warned_of_and_adapters_are_not(fine_tuning_recipe, tmp_path, caplog):
    loop.train(fine_tuning_recipe("gpt2", training={"learning_rate": 2e-3, "num_steps": 2}), name="fast", output=tmp_path)
    assert "likely to forget" in caplog.text
    assert "1905.05583" in caplog.text
    caplog.clear()
    quiet = {"training": {"learning_rate": 2e-3, "num_steps": 2}}
    loop.train(fine_tuning_recipe("gpt2", **quiet, model={"lora": {}}), name="lora", output=tmp_path)
    loop.train(fine_tuning_recipe("lstm", **quiet), name="lstm", output=tmp_path)
    loop.train(fine_tuning_recipe("gpt2", training={"num_steps": 2}), name="slow", output=tmp_path)
    assert "likely to forget" not in caplog.text
