"""The cards in model_cards/ are what hflab writes from the facts beside them, and hold nothing that may not be published."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hflab.hub.card import CURVE_FILE, write_card
from hflab.hub.preflight import check_card_text
from hflab.run_folder import RunFolder

CARDS = Path(__file__).parents[2] / "model_cards"
NAMES = sorted(path.name for path in CARDS.iterdir() if path.is_dir())


def test_every_card_is_listed():
    assert len(NAMES) >= 4
    listing = (CARDS / "README.md").read_text(encoding="utf-8")
    assert all(f"({name}/model/README.md)" in listing for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_made_anew_from_its_facts(name, tmp_path):
    run = Path(shutil.copytree(CARDS / name, tmp_path / name, ignore=shutil.ignore_patterns("model")))
    written = write_card(run)
    assert written.read_text(encoding="utf-8") == (CARDS / name / "model" / "README.md").read_text(encoding="utf-8")
    assert (written.parent / CURVE_FILE).is_file() == (CARDS / name / "model" / CURVE_FILE).is_file()


@pytest.mark.parametrize("name", NAMES)
def test_a_card_could_be_published(name):
    folder = CARDS / name
    assert RunFolder(folder).read_facts()["status"] == "finished"
    assert ModelCard.load(folder / "model" / "README.md").data.eval_results
    assert [str(problem) for file in folder.rglob("*.*") if file.suffix != ".png" for problem in check_card_text(file)] == []
