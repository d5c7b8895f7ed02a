"""`hflab gradients` from end to end: recipes, runs, models and classifiers; what it writes; and what it says to mistakes."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel

import hflab
from hflab.cli import main
from hflab.errors import UserError
from hflab.laboratory.gradient_measuring import choose_targets
from hflab.laboratory.gradients import GradientOptions, measure_gradients, measure_runs_together
from hflab.laboratory.state_gradients import read_rows, state_gains
from hflab.models import build_model
from hflab.recipe import parse_recipe

TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom.\n" * 60
QUICK = ["--steps", "12", "--seeds", "2", "--rows", "2"]


def recipe(**model):
    values = {
        "data": {"source": "text", "path": "own.txt", "sequence_length": 16},
        "model": {"family": "recurrent", "cell_type": "lstm", "hidden_size": 6, **model},
        "training": {"num_steps": 6, "batch_size": 4, "evaluate_every_steps": 2, "keep_checkpoints": 9, "learning_rate": 0.05, "device": "cpu"},
        "evaluation": {"batch_size": 2, "sample_tokens": 0},
    }
    if model.get("family") == "mini_transformer":
        values["data"]["layout"], values["model"]["num_attention_heads"] = "windows", 2
        del values["model"]["cell_type"]
    return parse_recipe(values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with own.txt, lstm.yaml, transformer.yaml, the run runs/lstm of six steps and a labelled set."""
    folder, before = tmp_path_factory.mktemp("gradients"), os.getcwd()
    os.chdir(folder)
    try:
        Path("own.txt").write_text(TEXT, encoding="utf-8")
        recipe().save(Path("lstm.yaml"))
        recipe(family="mini_transformer", hidden_size=8).save(Path("transformer.yaml"))
        hflab.train(recipe(), run_name="lstm")
        examples = [{"text": f"a {word} day, a {word} year and a {word} word", "label": word} for word in ("good", "bad") for _ in range(20)]
        Path("labelled.jsonl").write_text("\n".join(map(json.dumps, examples)), encoding="utf-8")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(autouse=True)
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def written(folder):
    """The run and an untrained Transformer, measured together by the command line, and what was printed."""
    printed, before = io.StringIO(), os.getcwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(printed):
            assert main(["gradients", "runs/lstm", "transformer.yaml", *QUICK, "--output", "both"]) == 0
    finally:
        os.chdir(before)
    return printed.getvalue()


def test_the_summary_is_plain(written):
    assert "half-life" in written
    assert "spectral radius" in written
    assert "at initialisation" in written
    assert "step 2" in written
    assert "after training" in written
    assert "both/gradients.html" in written


def test_numbers_are_written(written):
    numbers = json.loads(Path("both/gradients.json").read_text(encoding="utf-8"))
    lstm, transformer = numbers["models"]
    assert [stage["name"] for stage in lstm["stages"]] == ["at initialisation", "step 2", "step 4", "after training"]
    assert {curve["quantity"] for curve in lstm["stages"][0]["curves"]} == {"loss", "hidden", "cell", "path"}
    assert [curve["quantity"] for curve in transformer["stages"][0]["curves"]] == ["loss"]
    assert set(lstm["stages"][0]["layers"][0]["gates"]) == {"input", "forget", "output"}
    from pyarrow import parquet

    table = parquet.read_table("both/gradients.parquet").to_pydict()
    assert set(table["model"]) == {"lstm", "transformer"}
    assert all(k <= t for k, t in zip(table["k"], table["t"], strict=True))
    hidden = next(curve for curve in lstm["stages"][-1]["curves"] if curve["quantity"] == "hidden")
    keys = zip(*(table[name] for name in ("model", "stage", "quantity", "t", "k")), strict=True)
    place = list(keys).index(("lstm", "after training", "hidden", 11, 3))
    assert table["value"][place] > 0
    assert hidden["by_distance"]["mean"][0] == pytest.approx(1.0)


def test_pictures_are_pictures(written):
    for name in ("decay_hidden.png", "decay_cell.png", "decay_loss.png", "map_lstm.png", "map_transformer.png", "singular_values.png"):
        with Image.open(Path("both") / name) as picture:
            assert min(picture.size) > 300
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    with Image.open("both/training_lstm.gif") as moving:
        assert moving.n_frames == 4
    assert not Path("both/training_transformer.gif").exists()


def test_the_page_needs_nothing_else_and_has_the_figures(written):
    page = Path("both/gradients.html").read_text(encoding="utf-8")
    assert re.findall(r'(?:src|srcset|href)="(?!data:|#)', page) == []
    assert "<script" not in page
    assert "viewport" in page
    assert "prefers-color-scheme: dark" in page
    numbers = json.loads(Path("both/gradients.json").read_text(encoding="utf-8"))
    assert numbers["claims"]
    for claim in numbers["claims"]:
        assert claim["verdict"] in page
        assert claim["claim"].replace("'", "&#39;") in page
    assert f"{numbers['models'][0]['stages'][0]['layers'][0]['spectral_radius']:.3f}" in page


def test_python_gives_what_the_command_gives(written, tmp_path):
    found = hflab.gradients("runs/lstm/model", GradientOptions(data="own.txt", steps=12, rows=2), output=tmp_path)
    assert found.page.parent == tmp_path
    found = measure_gradients(["runs/lstm"], GradientOptions(steps=12, seeds=2, rows=2))
    numbers = json.loads(Path("both/gradients.json").read_text(encoding="utf-8"))["models"][0]
    assert [stage.curve("hidden").half_life for stage in found.models[0].stages] == pytest.approx(
        [next(curve["half_life"] for curve in stage["curves"] if curve["quantity"] == "hidden") for stage in numbers["stages"]]
    )


def test_the_beginning_of_a_run_is_where_it_began():
    """The first seed is the recipe's own, so that of one seed the figures are those of the very weights training began with."""
    run = measure_gradients(["runs/lstm"], GradientOptions(steps=12, seeds=1, rows=2)).models[0]
    fresh = measure_gradients(["lstm.yaml"], GradientOptions(steps=12, seeds=1, rows=2)).models[0]
    assert run.stages[0].curve("loss").mean == pytest.approx(fresh.stages[0].curve("loss").mean)
    assert run.stages[0].curve("loss").mean != pytest.approx(run.stages[-1].curve("loss").mean)


def test_runs_of_several_seeds_are_measured_together():
    together = measure_runs_together("both", ["runs/lstm", "runs/lstm"], GradientOptions(steps=12, rows=2))
    alone = measure_runs_together("one", ["runs/lstm"], GradientOptions(steps=12, rows=2))
    assert [stage.name for stage in together.stages] == ["at initialisation", "after training"]
    curve = together.stages[1].curve("hidden")
    assert curve.low == pytest.approx(curve.mean)  # two that are one have no spread
    assert alone.stages[1].curve("hidden").mean == pytest.approx(curve.mean, rel=0.5)


def test_text_and_data_replace_the_models_own():
    text = measure_gradients(["runs/lstm"], GradientOptions(text=TEXT[:40], steps=12, seeds=1)).models[0]
    assert "3 rows of 12 tokens from the given text" in text.description
    data = measure_gradients(["runs/lstm/model"], GradientOptions(data="own.txt", steps=12, seeds=1)).models[0]
    assert "from own.txt" in data.description
    assert [stage.name for stage in data.stages] == ["after training"]


def test_any_causal_model_of_transformers_will_do(tmp_path):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=60, n_positions=16, n_embd=8, n_layer=1, n_head=2))
    model.save_pretrained(tmp_path / "gpt2")
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained("runs/lstm/model").save_pretrained(tmp_path / "gpt2")
    found = measure_gradients([tmp_path / "gpt2"], GradientOptions(text=TEXT, steps=12)).models[0]
    assert found.kind == "attention"
    with pytest.raises(UserError, match="16 positions"):
        measure_gradients([tmp_path / "gpt2"], GradientOptions(text=TEXT, steps=20))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_classifier_has_one_loss_for_each_text(bidirectional):
    values = {
        "task": "text_classification",
        "data": {"source": "examples", "path": "labelled.jsonl", "validation_fraction": 0.3},
        "model": {"family": "recurrent", "hidden_size": 6, "bidirectional": bidirectional},
        "training": {"num_steps": 1, "device": "cpu"},
    }
    parse_recipe(values).save(Path("classifier.yaml"))
    found = measure_gradients(["classifier.yaml"], GradientOptions(steps=12, seeds=1)).models[0]
    assert len(found.stages[0].maps[0].targets) == 1
    assert found.stages[0].has("hidden") is not bidirectional
    assert any("reads both ways" in note for note in found.notes) is bidirectional
    with pytest.raises(UserError, match="longest text"):
        measure_gradients(["classifier.yaml"], GradientOptions(steps=500))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runs/lstm", "--text", "  "], "The text is empty"),
        (["runs/lstm", "--text", "It was"], "--steps 12 needs 13"),
        (["runs/lstm", "--text", "It wäs the best of times"], "does not know"),
        (["runs/lstm", "--data", "nothing.txt"], "neither a file nor a source"),
        (["runs/lstm", "--split", "valdation"], "Did you mean 'validation'?"),
        (["runs/nothing_here"], "cannot be found"),
        (["./a/b/c"], "There is no folder"),
        (["char_lstm_shakespere"], "Did you mean 'char_lstm_shakespeare'?"),
        (["nothing.yaml"], "does not exist"),
        (["lstm.yaml", "--steps", "1"], "--steps is 1"),
        (["lstm.yaml", "--seeds", "0"], "--seeds is 0"),
        (["lstm.yaml", "--probes", "1"], "--probes is 1"),
        (["lstm.yaml", "--text", "a", "--data", "b"], "Both --text and --data"),
        (["runs/lstm", "--output", "own.txt"], "Nothing can be written into own.txt"),
        (["phonemes_lstm_attention_cmudict"], "of the task seq2seq"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_told_in_one_line(words, said, capsys):
    words = [*words, *(QUICK if "--steps" not in words and "--seeds" not in words else [])]
    assert main(["gradients", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith("hflab: ")


def test_a_model_that_reads_both_ways_is_refused(tmp_path, capsys):
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertLMHeadModel(BertConfig(vocab_size=60, is_decoder=False, **shape))
    model.save_pretrained(tmp_path / "bert")
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained("runs/lstm/model").save_pretrained(tmp_path / "bert")
    assert main(["gradients", str(tmp_path / "bert"), "--text", TEXT, *QUICK]) == 2
    assert "reads both ways" in capsys.readouterr().err


def test_targets_are_spread_and_end_with_the_last():
    assert choose_targets(12) == tuple(range(12))
    assert choose_targets(64)[-1] == 63
    assert len(choose_targets(64)) == 32
    assert len(choose_targets(4096)) == 8
    assert choose_targets(50, one_loss=True) == (49,)


@pytest.mark.slow
def test_gradients_over_4096_steps_fit_into_two_gigabytes(tmp_path):
    """An LSTM of 256 units and one RNN, measured by the command in a process of its own; its largest resident size is what the system says."""
    (tmp_path / "long.txt").write_text(TEXT * 20, encoding="utf-8")
    for cell in ("lstm", "rnn"):
        recipe(cell_type=cell, hidden_size=256).save(tmp_path / f"{cell}.yaml")
    code = "import resource, sys\nfrom hflab.cli import main\nassert main(sys.argv[1:]) == 0\n"
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)"
    words = ["gradients", str(tmp_path / "lstm.yaml"), str(tmp_path / "rnn.yaml"), "--data", str(tmp_path / "long.txt")]
    words += ["--steps", "4096", "--seeds", "1", "--output", str(tmp_path / "out")]
    result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert float(result.stdout.split()[-1]) < 2.0


def test_long_rows_keep_their_states_alone():
    """No array of T x T or T x H x H: the largest that a walk holds is its input products."""
    import torch

    walk = read_rows(build_model("recurrent", "ForCausalLM", {"hidden_size": 4, "vocab_size": 5}).model.layers[0].cell, torch.randn(1, 600, 4))
    gains = state_gains(walk, choose_targets(600), 2)["hidden"]
    assert gains.squared.size == 8 * 600
    assert max(part.numel() for part in (walk.input_products, walk.hidden, walk.memory)) == 600 * 16
