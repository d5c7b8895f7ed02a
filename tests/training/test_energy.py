"""Energy of a run, by codecarbon itself."""

import sys
import time

import pytest

from hflab import api
from hflab.errors import UserError
from hflab.recipe import parse_recipe
from hflab.run_folder import RunFolder
from hflab.training.energy import check_country, measured_energy

pytest.importorskip("codecarbon")


def work(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(10_000))


def test_a_run_says_what_it_used(tmp_path):
    (tmp_path / "text.txt").write_text("abc abd " * 500)
    recipe = parse_recipe(
        {
            "data": {"source": "text", "path": str(tmp_path / "text.txt"), "sequence_length": 16},
            "model": {"family": "recurrent", "hidden_size": 8},
            "training": {"num_steps": 3, "batch_size": 4, "device": "cpu"},
            "evaluation": {"sample_tokens": 0},
            "tracking": {"country": "DEU"},
            "publish": {"try_usage": False},
        }
    )
    run = api.train(recipe, output=tmp_path / "runs")
    energy = run.read_facts()["energy"]
    assert 0 < energy["kilowatt_hours"] < 1
    assert 0.05 < energy["grams_co2"] / 1000 / energy["kilowatt_hours"] < 1  # kg per kWh of a country's mix
    assert (energy["country"], energy["resumed"]) == ("DEU", False)
    card = (run.model / "README.md").read_text(encoding="utf-8")
    assert "- energy: " in card
    assert "estimated by codecarbon" in card


def test_parts_of_a_run_add_up_and_failures_count(tmp_path):
    run = RunFolder(tmp_path)
    with measured_energy(run, "FRA", num_processes=1):
        work(0.3)
    first = run.read_facts()["energy"]

    def fail():
        with measured_energy(run, "FRA", num_processes=1):
            work(0.3)
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    second = run.read_facts()["energy"]
    assert second["kilowatt_hours"] > first["kilowatt_hours"] > 0
    assert (first["resumed"], second["resumed"]) == (False, True)


def test_without_a_country_nothing_is_measured(tmp_path):
    with measured_energy(RunFolder(tmp_path), None, num_processes=1):
        pass
    assert list(tmp_path.iterdir()) == []


def test_mistakes(monkeypatch):
    check_country("DEU")
    with pytest.raises(UserError, match="'DEU'"):
        check_country("DEUX")
    monkeypatch.setitem(sys.modules, "codecarbon.input", None)
    with pytest.raises(UserError, match=r"hflab\[energy\]"):
        check_country("DEU")
    check_country(None)
