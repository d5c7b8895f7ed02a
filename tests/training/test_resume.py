"""Resumed = uninterrupted, bit for bit on the CPU: weights, optimizer, metrics lines; by Ctrl-C and kill -9, on 1 and 2 processes."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file

from hflab.errors import UserError
from hflab.run_folder import RunFolder
from hflab.training import loop
from hflab.training.checkpoints import list_checkpoints
from hflab.training.interruption import TrainingInterrupted
from hflab.training.tasks import CausalLanguageModeling

SETTINGS = {"num_steps": 12, "gradient_accumulation_steps": 2, "log_every_steps": 5, "checkpoint_every_steps": 4, "averaging": "ema"}


def metrics_of(run):
    """All lines without what the clock decides."""
    return [{key: value for key, value in line.items() if key != "timing"} for line in run.read_metrics()]


def optimizer_of(run):
    return torch.load(list_checkpoints(run.checkpoints)[-1] / "optimizer.bin", weights_only=True)


def assert_same(run, expected):
    assert metrics_of(run) == metrics_of(expected)
    weights, expected_weights = (load_file(folder.model / "model.safetensors") for folder in (run, expected))
    assert weights.keys() == expected_weights.keys()
    assert all(torch.equal(weights[key], expected_weights[key]) for key in weights)
    states, expected_states = optimizer_of(run)["state"], optimizer_of(expected)["state"]
    assert states.keys() == expected_states.keys()
    for key, state in states.items():
        assert all(torch.equal(value, expected_states[key][name]) for name, value in state.items())


@pytest.fixture
def interrupt_at(monkeypatch):
    """Send this process a real SIGINT in the n-th forward pass from now."""

    def arrange(number):
        original = CausalLanguageModeling.loss
        calls = []

        def interrupting(self, model, batch, carried):
            calls.append(1)
            if len(calls) == number:
                signal.raise_signal(signal.SIGINT)
            return original(self, model, batch, carried)

        monkeypatch.setattr(CausalLanguageModeling, "loss", interrupting)

    return arrange


@pytest.mark.parametrize("layout", ["lanes", "windows"])
@pytest.mark.parametrize("number", [1, 4, 9, 14, 24], ids=lambda number: f"pass-{number}")
def test_ctrl_c_at_any_pass(make_recipe, tmp_path, interrupt_at, monkeypatch, number, layout):
    recipe = make_recipe(training=SETTINGS, data={"layout": layout})
    expected = loop.train(recipe, name="whole", output=tmp_path)
    interrupt_at(number)
    with pytest.raises(TrainingInterrupted, match="--resume"):
        loop.train(recipe, name="cut", output=tmp_path)
    run = RunFolder(tmp_path / "cut")
    assert run.read_facts()["status"] == "interrupted"
    in_mid_cycle = "micro" in list_checkpoints(run.checkpoints)[-1].name
    assert in_mid_cycle == (number % 2 == 1)
    monkeypatch.undo()
    assert_same(loop.resume(run.path), expected)


def test_interrupted_again_and_again(make_recipe, tmp_path, interrupt_at, monkeypatch):
    recipe = make_recipe(training=SETTINGS)
    expected = loop.train(recipe, name="whole", output=tmp_path)
    interrupt_at(3)
    with pytest.raises(TrainingInterrupted):
        loop.train(recipe, name="cut", output=tmp_path)
    for _ in range(3):
        monkeypatch.undo()
        interrupt_at(5)
        with pytest.raises(TrainingInterrupted):
            loop.resume(tmp_path / "cut")
    monkeypatch.undo()
    assert_same(loop.resume(tmp_path / "cut"), expected)


def launch(arguments, num_processes=1):
    """Start a training in processes of its own, as a user's shell would. --multi_gpu is Accelerate's word for several, also on CPUs."""
    several = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(num_processes), "--num_machines", "1"]
    several += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [sys.executable, *(several if num_processes > 1 else []), "-m", "hflab", "train", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(), "GLOO_SOCKET_IFNAME": "lo"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stderr=pipe, stdout=pipe, text=True, start_new_session=True)


def kill_all(process):
    """kill -9 of the launcher and everything it started."""
    for member in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        member.kill()
    process.communicate()


def finish(process):
    output, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    return output


def recipe_file(make_recipe, tmp_path, **training):
    recipe = make_recipe(training={**SETTINGS, **training}, evaluation={"sample_tokens": 0})
    recipe.save(tmp_path / "small.yaml")
    return str(tmp_path / "small.yaml")


def wait_for_metrics(run, size, process):
    """Return when the run's metrics have grown to `size` lines."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if run.metrics_file.is_file() and run.metrics_file.read_bytes().count(b"\n") >= size:
            return
        time.sleep(0.005)
    raise AssertionError(f"the run ended before line {size}")


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_kill_9_at_unforeseen_moments(make_recipe, tmp_path, num_processes):
    file = recipe_file(make_recipe, tmp_path, num_steps=400, checkpoint_every_steps=7, log_every_steps=3)
    expected = ["--output", str(tmp_path), "--run"]
    finish(launch([file, *expected, "whole"], num_processes))
    run = RunFolder(tmp_path / "cut")
    arguments = [file, *expected, "cut"]
    for lines in (1, 40, 90):
        process = launch(arguments, num_processes)
        wait_for_metrics(run, lines, process)
        kill_all(process)
        arguments = ["--resume", str(run.path)]
    finish(launch(arguments, num_processes))
    assert_same(run, RunFolder(tmp_path / "whole"))


@pytest.mark.slow
def test_ctrl_c_with_two_processes_stops_both_at_the_same_pass(make_recipe, tmp_path):
    file = recipe_file(make_recipe, tmp_path, num_steps=400)
    finish(launch([file, "--output", str(tmp_path), "--run", "whole"], 2))
    process = launch([file, "--output", str(tmp_path), "--run", "cut"], 2)
    run = RunFolder(tmp_path / "cut")
    wait_for_metrics(run, 10, process)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=120)
    assert run.read_facts()["status"] == "interrupted"
    finish(launch(["--resume", str(run.path)], 2))
    assert_same(run, RunFolder(tmp_path / "whole"))


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(make_recipe, tmp_path):
    recipe = make_recipe(
        model={"recurrent_dropout": 0.0, "input_dropout": 0.0}, training={"gradient_accumulation_steps": 2}, evaluation={"sample_tokens": 0}
    )
    recipe.save(tmp_path / "small.yaml")
    runs = []
    for num_processes in (1, 2):
        name = f"on-{num_processes}"
        finish(launch([str(tmp_path / "small.yaml"), "--output", str(tmp_path), "--run", name], num_processes))
        runs.append(RunFolder(tmp_path / name))
    one, two = ([line["loss"] for line in run.read_metrics()] for run in runs)
    assert one == pytest.approx(two, rel=1e-5)
    assert runs[1].read_facts()["hardware"]["num_processes"] == 2


def test_resuming_refuses_another_recipe_and_names_the_difference(make_recipe, tmp_path, interrupt_at):
    interrupt_at(3)
    with pytest.raises(TrainingInterrupted):
        loop.train(make_recipe(training=SETTINGS), name="cut", output=tmp_path)
    with pytest.raises(UserError, match=r"another recipe: training.learning_rate \(0.01 in the checkpoint, 0.02 now\)"):
        loop.resume(tmp_path / "cut", {"training.learning_rate": "0.02"})


def test_a_finished_run_goes_on_when_its_budget_grows(make_recipe, tmp_path):
    settings = {**SETTINGS, "schedule": "constant"}
    long = loop.train(make_recipe(training={**settings, "num_steps": 24}), name="long", output=tmp_path)
    short = loop.train(make_recipe(training=settings), name="short", output=tmp_path)
    grown = loop.resume(short.path, {"training.num_steps": "24"})
    last_lines = [[line for line in metrics_of(run) if line["kind"] == "train"][-1] for run in (long, grown)]
    assert last_lines[0] == last_lines[1]


def test_resuming_refuses_changed_data(make_recipe, tmp_path, interrupt_at):
    own = tmp_path / "own.txt"
    own.write_text("a changing text about kings and queens\n" * 200, encoding="utf-8")
    interrupt_at(3)
    with pytest.raises(TrainingInterrupted):
        loop.train(make_recipe(data={"path": str(own)}), name="cut", output=tmp_path)
    own.write_text("another text about kings and queens in a\n" * 200, encoding="utf-8")
    with pytest.raises(UserError, match="have changed since it began"):
        loop.resume(tmp_path / "cut")


def test_a_run_in_use_is_not_resumed(make_recipe, tmp_path, interrupt_at):
    interrupt_at(3)
    with pytest.raises(TrainingInterrupted):
        loop.train(make_recipe(), name="cut", output=tmp_path)
    code = "import sys, time; from pathlib import Path; from hflab.run_folder import RunFolder\n"
    code += "with RunFolder(Path(sys.argv[1])).locked(): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "cut")], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline().strip() == "held"
        with pytest.raises(UserError, match="in use"):
            loop.resume(tmp_path / "cut")
        holder.kill()


def test_checkpoints_record_where_they_stand(make_recipe, tmp_path):
    run = loop.train(make_recipe(training={**SETTINGS, "keep_checkpoints": 3}), name="whole", output=tmp_path)
    checkpoints = list_checkpoints(run.checkpoints)
    assert [path.name for path in checkpoints] == ["step-00000004", "step-00000008", "step-00000012"]
    facts = json.loads((checkpoints[0] / "checkpoint.json").read_text(encoding="utf-8"))
    assert facts["progress"]["step"] == 4
    assert facts["num_processes"] == 1
