"""A study of memory: the search for a learning rate, resumption, the report's figures and sentences, mistakes, and the command."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hflab
from hflab.cli import main
from hflab.errors import UserError
from hflab.laboratory.memory import MemoryOptions, MemoryRow, MemoryStudy, study_memory
from hflab.laboratory.memory_report import plain_report, study_as_json
from hflab.laboratory.memory_verdict import kept_up_to, remembers_nothing, verdict
from hflab.laboratory.probe_models import MODELS
from hflab.laboratory.probe_tasks import PROBES

SMALL = MemoryOptions(cells=("rnn", "lstm"), lengths=(3,), num_parameters=1000, seeds=2, num_steps=40)


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A folder with the study of delayed_recall by SMALL, and what was found and said."""
    folder, said = tmp_path_factory.mktemp("memory"), []
    study = hflab.probe_memory(["delayed_recall"], SMALL, output=folder, command="hflab memory …", say=said.append)
    return folder, study, said


def trainings(folder):
    return {file.name: json.loads(file.read_text(encoding="utf-8")) for file in (folder / "runs").glob("*.json")}


def test_what_is_trained(studied):
    folder, study, said = studied
    runs = [saved["run"] for saved in trainings(folder).values()]
    for cell in SMALL.cells:
        searched = [run for run in runs if run["choice"]["cell"] == cell and run["seed"] == 0]
        assert sorted(run["learning_rate"] for run in searched) == [1e-3, 3e-3, 1e-2]
        assert {run["num_steps"] for run in searched} == {20}
        assert sorted(run["seed"] for run in runs if run["choice"]["cell"] == cell and run["seed"]) == [1, 2]
    assert len(said) == len(runs) == 10
    assert [row.cell for row in study.rows] == ["rnn", "lstm"]


def test_the_best_learning_rate_is_taken(studied):
    folder, study, _ = studied
    for row in study.rows:
        searched = [saved for saved in trainings(folder).values() if saved["run"]["choice"]["cell"] == row.cell and not saved["run"]["seed"]]
        solved = [saved for saved in searched if saved["outcome"]["stopped_by"] == "solved"]
        if solved:
            best = min(solved, key=lambda saved: saved["outcome"]["num_steps"])
        else:
            best = max(searched, key=lambda saved: saved["outcome"]["validation"])
        assert row.learning_rate == best["run"]["learning_rate"]
        assert row.search_seconds == pytest.approx(sum(saved["outcome"]["seconds"] for saved in searched))


def test_it_goes_on_where_it_was(studied, tmp_path):
    """Of a study that was broken off, what is missing is trained, and nothing else; the figures are those of one that was not."""
    folder, study, _ = studied
    files = sorted((folder / "runs").glob("*.json"))
    (tmp_path / "runs").mkdir()
    for file in files[::2]:
        (tmp_path / "runs" / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "runs" / files[0].name).write_text('{"run": {', encoding="utf-8")  # cut short
    said = []
    again = study_memory(["delayed_recall"], SMALL, tmp_path, say=said.append)
    assert len(said) == len(files) - len(files[::2]) + 1
    assert [row.figures for row in again.rows] == [row.figures for row in study.rows]
    said.clear()
    study_memory(["delayed_recall"], dataclasses.replace(SMALL, seeds=3), tmp_path, say=said.append)
    assert len(said) == 2  # the third seed of both


def test_stopped_by_hand(tmp_path):
    def interrupt(line):
        if line.startswith("[3/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"finished trainings are kept in .*runs, and the same command goes on"):
        study_memory(["delayed_recall"], SMALL, tmp_path, say=interrupt)
    assert len(trainings(tmp_path)) == 3


def test_report(studied):
    folder, study, _ = studied
    page, data = (folder / "memory.md").read_text(encoding="utf-8"), json.loads((folder / "memory.json").read_text(encoding="utf-8"))
    assert (folder / "memory.png").read_bytes().startswith(b"\x89PNG")
    saved = trainings(folder).values()
    for row, written in zip(study.rows, data["rows"], strict=True):
        tested = [one["outcome"] for one in saved if one["run"]["choice"]["cell"] == row.cell and one["outcome"]["figures"]]
        for multiple in (1, 16):
            mean = sum(outcome["figures"][str(multiple)] for outcome in tested) / len(tested)
            assert row.mean(multiple) == pytest.approx(mean)
            assert written["mean"][str(multiple)] == pytest.approx(mean)
            assert f"{mean:.3f}" in page
        assert f"| {row.num_solved} of 2 |" in page
        assert f"{row.num_parameters:,}" in page
        assert written["without_memory"] == 0.5
    assert all(sentence in page and sentence in plain_report(study) for sentence in verdict(study))
    assert "hflab memory …" in page


def row_of(cell, means, num_solved, task="delayed_recall", length=10, num_steps=(100, 100)):
    figures = {multiple: [mean, mean] for multiple, mean in zip((1, 2, 4, 8, 16), means, strict=True)}
    return MemoryRow(task, length, cell, 1000, 8, 1e-3, figures, num_solved, list(num_steps), 1.0, 1.0)


def test_verdict_follows_its_rules():
    rows = [
        row_of("rnn", [0.52, 0.5, 0.5, 0.5, 0.5], 0),
        row_of("nvsi", [0.8, 0.5, 0.5, 0.5, 0.5], 1),
        row_of("gru", [1.0, 0.995, 0.98, 1.0, 0.5], 2, num_steps=(300, 500)),
        row_of("lstm", [1.0] * 5, 2),
    ]
    study = MemoryStudy(MemoryOptions(seeds=2), rows)
    assert verdict(study) == [
        "delayed_recall, T = 10: solved with every seed by lstm (after 100 steps) and gru (after 400 steps); with some by nvsi (1 of 2); never by "
        "rnn. Next to nothing is remembered by rnn. Rows up to which it is kept: gru 2 T and lstm 16 T."
    ]
    longer = [row_of("rnn", [0.5] * 5, 0, length=50), row_of("lstm", [1.0] + [0.5] * 4, 2, length=50)]
    sentences = verdict(MemoryStudy(MemoryOptions(seeds=2), [rows[0], rows[3], *longer]))
    assert sentences[1].endswith("Rows up to which it is kept: lstm T alone.")
    assert sentences[-1] == "delayed_recall: the longest of the lengths tried that was learnt with every seed: rnn none and lstm 50."


def test_rules_for_errors_are_turned_around():
    adding = PROBES["adding"]
    good, bad = row_of("lstm", [0.005, 0.009, 0.02, 0.1, 0.1], 2, task="adding"), row_of("rnn", [0.16] * 5, 0, task="adding")
    assert kept_up_to(good, adding) == 2
    assert not remembers_nothing(good, adding)
    assert remembers_nothing(bad, adding)
    assert study_as_json(MemoryStudy(SMALL, [good, bad]), "")["rows"][0]["spread"][1] == 0


@pytest.mark.parametrize(
    ("tasks", "changes", "message"),
    [
        (["pariti"], {}, "Did you mean 'parity'"),
        ([], {}, "No task"),
        (["parity"], {"cells": ("gruu",)}, "Did you mean 'gru'"),
        (["parity"], {"lengths": (0,)}, "length is 0, but parity needs at least 1"),
        (["parity"], {"lengths": (5, -1)}, "length is -1"),
        (["adding"], {"lengths": (1,)}, "adding needs at least 2"),
        (["parity"], {"num_parameters": 5}, "5 parameters were asked for"),
        (["parity"], {"num_parameters": 0}, "num_parameters is 0"),
        (["parity"], {"seeds": 0}, "seeds is 0, but must be at least 1"),
        (["parity"], {"num_steps": 1}, "num_steps is 1, but must be at least 2"),
        (["parity"], {"max_seconds": 0.0}, "max_seconds is 0"),
        (["parity"], {"max_seconds": float("nan")}, "max_seconds is nan"),
        (["parity"], {"learning_rates": (0.0,)}, "learning rate is 0"),
        (["parity"], {"tricks": ("clip",)}, "Did you mean 'clipping'"),
        (["copying"], {"num_items": 0}, "number of items is 0"),
        (["parity"], {"processes": 0}, "processes is 0"),
    ],
)
def test_mistakes_are_found_before_any_work(tasks, changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        study_memory(tasks, dataclasses.replace(SMALL, **changes), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Nothing can be written into .* choose another folder with --output"):
        study_memory(["parity"], SMALL, tmp_path / "file")


def test_one_learning_rate_needs_no_search(tmp_path):
    options = dataclasses.replace(SMALL, cells=("rnn",), seeds=1, num_steps=2, learning_rates=(5e-3,))
    row = study_memory(["copying"], options, tmp_path).rows[0]
    assert (row.learning_rate, row.search_seconds, row.spread()) == (5e-3, 0, 0)


def test_the_command(tmp_path, capsys):
    words = ["memory", "delayed_recall", "--cells", "lstm", "--length", "2", "3", "--parameters", "1000", "--seeds", "1", "--num-steps", "20"]
    assert main([*words, "--learning-rates", "0.01", "--tricks", "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "delayed_recall, T = 3" in out
    assert "the longest of the lengths tried" in out
    assert all(saved["run"]["choice"]["tricks"] == [] for saved in trainings(tmp_path).values())
    assert "--learning-rates 0.01" in (tmp_path / "memory.md").read_text(encoding="utf-8")


def test_the_command_lists_tasks_and_explains_itself(capsys):
    assert main(["memory"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(PROBES)
    with pytest.raises(SystemExit) as ended:
        main(["memory", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(cell in shown for cell in MODELS)


@pytest.mark.parametrize(
    "words",
    [
        ["pariti"],
        ["parity", "--length", "0"],
        ["parity", "--context", "8"],
        ["parity", "--model", "x"],
        ["--model", "x", "--tricks"],
        ["--model", "x", "--seeds", "2"],
        ["--model", "no/such/folder"],
        ["parity", "--sedes", "2"],
    ],
    ids=" ".join,
)
def test_mistakes_on_the_command_line_are_one_line_and_status_2(words, capsys, tmp_path):
    assert main(["memory", *words, "--output", str(tmp_path / "new")]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("hflab: ")
    assert errors.count("\n") == 1


def test_a_language_model_by_command_and_in_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("own.txt").write_text("It was the best of times, it was the worst of times.\n" * 60, encoding="utf-8")
    small = ["--data.sequence_length", "8", "--model.hidden_size", "8", "--training.num_steps", "2", "--training.batch_size", "2"]
    assert main(["train", "own_text", "--data.path", "own.txt", "--run", "first", *small, "--training.device", "cpu"]) == 0
    capsys.readouterr()
    assert main(["memory", "--model", "runs/first", "--context", "16", "--targets", "20"]) == 0
    assert "first on the validation split: nats per token" in capsys.readouterr().out
    assert Path("memory/effective_memory.md").is_file()
    found = hflab.effective_memory("runs/first", "own.txt", options=hflab.ContextOptions(context=16, targets=20))
    assert found.about == "first on own.txt"
    assert found.context == 16


@pytest.mark.slow
def test_two_processes_give_the_same_and_a_killed_study_goes_on(tmp_path):
    words = [sys.executable, "-m", "hflab", "memory", "parity", "--cells", "rnn", "gru", "--length", "6", "--num-steps", "60", "--processes", "2"]
    alone = tmp_path / "alone"
    study = study_memory(["parity"], MemoryOptions(cells=("rnn", "gru"), lengths=(6,), num_steps=60), alone)
    killed = subprocess.Popen([*words, "--output", str(tmp_path / "two")], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert killed.stdout is not None
    assert killed.stdout.readline().startswith("[1/6]")
    killed.kill()
    killed.wait()
    _wait_until_empty(killed.pid)
    finished = len(trainings(tmp_path / "two"))
    assert finished >= 1
    result = subprocess.run([*words, "--output", str(tmp_path / "two")], capture_output=True, text=True, check=True)
    assert result.stdout.count("\n[") + 1 <= 12 - finished
    found = [saved["outcome"]["figures"] for _, saved in sorted(trainings(tmp_path / "two").items())]
    assert found == [saved["outcome"]["figures"] for _, saved in sorted(trainings(alone).items())]
    assert len(study.rows) == 2


def _wait_until_empty(group, seconds=20):
    """Wait until no process of a killed parent's group is left: its trainings end with it."""
    for _ in range(seconds * 10):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(group, signal.SIGKILL)
    raise AssertionError("trainings outlived the command")
