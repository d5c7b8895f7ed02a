"""`hflab data check` on the command line and in Python: exit statuses, what it prints, and the files of its report."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import hflab
from hflab.cli import main
from hflab.errors import UserError

sys.path.insert(0, str(Path(__file__).parent / "data"))
from recordings_on_disk import RATE, TEXTS, Recordings, syllables

RECIPE = {
    "task": "speech_recognition",
    "data": {"source": "speech", "path": "data", "speaker_column": "speaker"},
    "model": {"family": "recurrent", "bidirectional": True, "hidden_size": 8, "num_hidden_layers": 1},
    "training": {"num_steps": 2},
}


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    """Recordings without a fault in the folder `data` of the current folder, and recipe.yaml that learns from them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return Recordings(tmp_path / "data")


@pytest.mark.parametrize("command", [["data"], ["data", "check"]], ids=str)
def test_help_answers(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert "usage: hflab data" in capsys.readouterr().out


def test_good_data_end_with_status_0(recordings, capsys):
    assert main(["data", "check", "recipe.yaml"]) == 0
    printed = capsys.readouterr()
    assert "Nothing is lost or spoilt" in printed.out
    assert "validation      4" in printed.out
    assert "Traceback" not in printed.err
    assert sorted(entry.name for entry in recordings.folder.parent.iterdir()) == ["data", "recipe.yaml"]


def test_what_is_only_worth_knowing_leaves_status_0(recordings, capsys):
    recordings.add("train", "telephone.wav", TEXTS[20], syllables(90, rate=8000), rate=8000)
    assert main(["data", "check", "recipe.yaml"]) == 0
    assert "telephone.wav: 8,000 Hz" in capsys.readouterr().out


def test_bad_data_end_with_status_1_and_a_report(recordings, capsys):
    recordings.add("train", "zeros.wav", TEXTS[20], np.zeros(RATE))
    recordings.add("train", "broken.wav", TEXTS[20], b"no sound")
    recordings.add("train", "long.wav", TEXTS[20], syllables(90, 3))
    assert main(["data", "check", "recipe.yaml", "--report", "report", "--data.max_clip_seconds", "2.5"]) == 1
    printed = capsys.readouterr().out
    assert "zeros.wav: digital silence" in printed
    assert "Training leaves out 2 of its 17 clips" in printed
    folder = recordings.folder.parent / "report"
    assert sorted(file.name for file in folder.iterdir()) == ["data_check.json", "data_check.png", "left_out.csv"]
    facts = json.loads((folder / "data_check.json").read_text(encoding="utf-8"))
    assert {name for name, problem in facts["problems"].items() if problem["kind"] != "note"} == {"silence", "unreadable", "too_long"}
    assert [clip["clip"] for clip in facts["left_out"]] == ["broken.wav", "long.wav"]
    assert "long.wav" in (folder / "left_out.csv").read_text(encoding="utf-8")
    assert (folder / "data_check.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["own_text"], "speech_recognition"),
        (["recipe.yam"], "recipe.yam"),
        (["recipe.yaml", "--data.path", "nowhere"], "nowhere"),
        (["recipe.yaml", "--data.pathh", "data"], "'path'"),
        (["recipe.yaml", "--data.text_column", "txt"], "'text'"),
        (["recipe.yaml", "--model.hidden_sise", "8"], "'hidden_size'"),
        (["recipe.yaml", "--report", "recipe.yaml"], "another --report FOLDER"),
        (["recipe.yaml", "--reprot", "x"], "'--report'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_status_2(arguments, expected, recordings, capsys):
    assert main(["data", "check", *arguments]) == 2
    errors = capsys.readouterr().err
    assert expected in errors
    assert errors.startswith("hflab: ")
    assert "Traceback" not in errors


def test_python_gives_what_the_command_finds(recordings):
    recordings.add("validation", "zeros.wav", TEXTS[20], np.zeros(RATE))
    found = hflab.check_data("recipe.yaml", {"training.num_steps": 1})
    assert found.has_problems
    assert [finding.clip.name for finding in found.findings["silence"]] == ["zeros.wav"]
    with pytest.raises(UserError, match="set the fields of the recipe"):
        hflab.check_data(hflab.load_recipe("recipe.yaml"), {"training.num_steps": 1})


def test_synthetic_speech_has_no_problem():
    pytest.importorskip("espeakng_loader")
    found = hflab.check_data("ctc_synthetic_digits", {"data.num_clips": 24})
    assert not found.has_problems
    assert set(found.splits) == {"train", "validation", "test"}
    assert all(clip.sound for clip in found.clips)
