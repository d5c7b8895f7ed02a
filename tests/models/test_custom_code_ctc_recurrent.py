"""Folders of speech recognisers in a process that has no hflab and no network: features, logits, the pipeline with times, chunks and batches.

The recognisers know a language of tones: each character is one, and between them is silence. Their blocks stay as they begin, at random, and the head
is set by least squares to tell which tone sounds at a frame: so every character has a known text and known times.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import Wav2Vec2CTCTokenizer, pipeline

from hflab.models import register_auto_classes
from hflab.models.recurrent import RecurrentConfig, RecurrentFeatureExtractor, RecurrentForCTC

RATE, FRAME = 16000, 640  # samples a second, and of a frame of logits
CHARACTERS = ["<pad>", "<unk>", "|", *"abcde"]  # the blank first
TEXTS = ["abc de", "e", "dad bad cab", "aa bb", "", "cede abed"]
CASES = {
    "one-directional": {"cell_type": "gru", "block_style": "residual"},
    "bidirectional": {"cell_type": "lstm", "bidirectional": True},
    "blank-last": {"cell_type": "gru", "pad_token_id": len(CHARACTERS) - 1},
}
ONE_WAY = [name for name, fields in CASES.items() if not fields.get("bidirectional")]  # others need whole recordings

# Runs by itself: it gets a folder of model folders and prints what it found for each as JSON.
STRANGER = """
import json, sys
from pathlib import Path
sys.modules["hflab"] = None  # an import of hflab fails even where it is installed
import torch, transformers
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer, pipeline

torch.set_num_threads(int(sys.argv[2]))
torch.set_grad_enabled(False)  # as where the models were saved: with gradients torch has another LSTM kernel

def load(folder):
    model = AutoModelForCTC.from_pretrained(folder, trust_remote_code=True).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # where in memory a file is mapped decides on the order of sums
    return model, AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)

def says(recognise, clips, **options):
    return list(recognise([{"raw": clip, "sampling_rate": 16000} for clip in clips], **options))

findings = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    expected = load_file(folder / "expected" / "outputs.safetensors")
    clips = [expected[f"clip {number}"].numpy() for number in range(sum(name.startswith("clip") for name in expected))]
    model, extractor = load(folder)
    model.save_pretrained(folder / "again")
    extractor.save_pretrained(folder / "again")
    AutoTokenizer.from_pretrained(folder, trust_remote_code=True).save_pretrained(folder / "again")
    found = {"classes": [type(model).__name__, type(extractor).__name__], "modules": [type(model).__module__, type(extractor).__module__]}
    for name, (some_model, some_extractor) in {"here": (model, extractor), "again": load(folder / "again")}.items():
        inputs = some_extractor(clips, sampling_rate=16000, return_tensors="pt")
        found[f"features {name}"] = torch.equal(inputs["input_features"], expected["features"])
        found[f"logits {name}"] = torch.equal(some_model(**inputs).logits, expected["logits"])
        recognise = pipeline("automatic-speech-recognition", model=str(folder if name == "here" else folder / "again"), trust_remote_code=True)
        found[f"texts {name}"] = says(recognise, clips)
    found["in batches"] = says(recognise, clips, batch_size=4)
    found["words"] = says(recognise, clips, return_timestamps="word")
    found["characters"] = says(recognise, clips, return_timestamps="char", batch_size=4)
    found["in chunks"] = says(recognise, clips, chunk_length_s=1.2, stride_length_s=0.4)
    found["in batches of chunks"] = says(recognise, clips, chunk_length_s=1.2, stride_length_s=[0.4, 0.2], batch_size=4, return_timestamps="char")
    findings[folder.name] = found
print(json.dumps({"findings": findings, "modules": [name for name in sys.modules if name.split(".")[0] == "hflab" and sys.modules[name]]}))
"""


def spoken(text, seed=0):
    """A text in tones: waveform (N,), and where each character sounds, in seconds."""
    generator = np.random.default_rng([seed, len(text)])
    pieces, times = [np.zeros(int(generator.integers(800, 4000)))], []
    for character in text:
        frequency = 300 * 1.5 ** (CHARACTERS.index("|" if character == " " else character) - 2)
        start = sum(len(piece) for piece in pieces)
        tone = 0.3 * np.sin(2 * np.pi * frequency * np.arange(int(generator.integers(2800, 4000))) / RATE)
        pieces.append(tone * np.minimum(1, np.minimum(np.arange(len(tone)), np.arange(len(tone))[::-1]) / 400))
        times.append((start / RATE, (start + len(pieces[-1])) / RATE))
        pieces.append(np.zeros(int(generator.integers(1900, 3000))))
    waveform = np.concatenate(pieces)
    return (waveform + 1e-3 * generator.standard_normal(len(waveform))).astype(np.float32), times


def vocabulary(blank):
    """The ids of the characters; the blank takes the place of whatever has its id else."""
    order = CHARACTERS[1 : blank + 1] + CHARACTERS[:1] + CHARACTERS[blank + 1 :]
    return {character: number for number, character in enumerate(order)}


def frame_labels(text, times, num_frames, ids):
    """Which token sounds in the middle of the newest window of each frame of logits, (T',)."""
    labels = torch.full((num_frames,), ids["<pad>"])
    middles = (torch.arange(num_frames) * FRAME + 200) / RATE
    for character, (start, end) in zip(text, times, strict=True):
        labels[(middles >= start) & (middles < end)] = ids["|" if character == " " else character]
    return labels


@torch.no_grad()
def set_head(model, extractor, ids):
    """Let the head tell, by least squares, what sounds at each frame of random texts."""
    generator, hidden, targets = np.random.default_rng(0), [], []
    for seed in range(100):
        text = "".join(generator.choice(list("abcde "), size=8))
        waveform, times = spoken(text, seed)
        outputs = model.model(**extractor(waveform, return_tensors="pt")).last_hidden_state[0]
        hidden.append(outputs)
        targets.append(frame_labels(text, times, len(outputs), ids))
    inputs = torch.cat([torch.cat(hidden), torch.ones(sum(len(rows) for rows in hidden), 1)], dim=1).double()
    wanted = torch.nn.functional.one_hot(torch.cat(targets), len(ids)).double()
    solution = torch.linalg.solve(inputs.T @ inputs + 1e-3 * torch.eye(inputs.shape[1]), inputs.T @ wanted).float()
    model.lm_head.weight.copy_(20 * solution[:-1].T)
    model.lm_head.bias.copy_(20 * solution[-1])


@torch.no_grad()
def save_case(folder, fields):
    """Save a recogniser with what it computes here."""
    torch.manual_seed(0)
    sizes = {"vocab_size": len(CHARACTERS), "hidden_size": 64, "num_hidden_layers": 1, "num_mel_bins": 24, "pad_token_id": 0, "conv_kernel_size": 3}
    model = RecurrentForCTC(RecurrentConfig(**sizes | fields)).eval()
    extractor = RecurrentFeatureExtractor(num_mel_bins=24, mean=[-8.0] * 24, standard_deviation=[4.0] * 24)
    ids = vocabulary(model.config.pad_token_id)
    set_head(model, extractor, ids)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(ids))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), bos_token=None, eos_token=None).save_pretrained(folder)
    clips = [spoken(text, 100 + number)[0] for number, text in enumerate(TEXTS)]
    inputs = extractor(clips, sampling_rate=RATE, return_tensors="pt")
    outputs = {"features": inputs["input_features"], "logits": model(**inputs).logits}
    (folder / "expected").mkdir()
    named = {f"clip {number}": torch.from_numpy(clip) for number, clip in enumerate(clips)}
    save_file({name: tensor.contiguous() for name, tensor in (outputs | named).items()}, folder / "expected" / "outputs.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("recognisers")
    for name, fields in CASES.items():
        (root / name).mkdir()
        save_case(root / name, fields)
    return root


@pytest.fixture(scope="module")
def stranger(folder, tmp_path_factory):
    """What a process without hflab finds in those folders."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    environment = {"PATH": os.environ["PATH"], "HOME": str(elsewhere), "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(elsewhere / "modules")}
    command = [sys.executable, "-I", "-c", STRANGER, str(folder), str(torch.get_num_threads())]
    process = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


def texts(answers):
    return [answer["text"] for answer in answers]


def test_hflab_was_not_there(stranger):
    assert stranger["modules"] == []
    assert sorted(stranger["findings"]) == sorted(CASES)


@pytest.mark.parametrize("case", CASES)
def test_same_without_hflab(stranger, case):
    found = stranger["findings"][case]
    assert found["classes"] == ["RecurrentForCTC", "RecurrentFeatureExtractor"]
    assert {module.split(".")[0] for module in found["modules"]} == {"transformers_modules"}
    for where in ("here", "again"):
        assert found[f"features {where}"]
        assert found[f"logits {where}"]
        assert texts(found[f"texts {where}"]) == TEXTS


@pytest.mark.parametrize("case", CASES)
def test_batches_write_what_clips_alone_do(stranger, case):
    assert texts(stranger["findings"][case]["in batches"]) == TEXTS


def assert_near(timestamp, expected):
    for given, true in zip(timestamp, expected, strict=True):
        assert abs(given - true) <= 2 * FRAME / RATE


@pytest.mark.parametrize(("case", "way"), [*((case, "characters") for case in CASES), *((case, "in batches of chunks") for case in ONE_WAY)])
def test_times_of_characters(stranger, case, way):
    for number, (text, answer) in enumerate(zip(TEXTS, stranger["findings"][case][way], strict=True)):
        assert "".join(chunk["text"] for chunk in answer["chunks"]) == text
        for chunk, expected in zip(answer["chunks"], spoken(text, 100 + number)[1], strict=True):
            assert_near(chunk["timestamp"], expected)


@pytest.mark.parametrize("case", CASES)
def test_times_of_words(stranger, case):
    for number, (text, answer) in enumerate(zip(TEXTS, stranger["findings"][case]["words"], strict=True)):
        assert [chunk["text"] for chunk in answer["chunks"]] == text.split()
        times, place = spoken(text, 100 + number)[1], 0
        for chunk, word in zip(answer["chunks"], text.split(), strict=True):
            place = text.index(word, place)
            assert_near(chunk["timestamp"], (times[place][0], times[place + len(word) - 1][1]))


@pytest.mark.parametrize("case", ONE_WAY)
def test_overlapping_chunks_write_what_the_whole_does(stranger, case):
    assert texts(stranger["findings"][case]["in chunks"]) == TEXTS


@pytest.mark.parametrize("case", CASES)
def test_the_pipeline_where_hflab_is_installed(folder, case):
    register_auto_classes()
    recognise = pipeline("automatic-speech-recognition", model=str(folder / case))
    assert type(recognise.model) is RecurrentForCTC
    assert type(recognise.feature_extractor) is RecurrentFeatureExtractor
    clips = [spoken(text, 100 + number)[0] for number, text in enumerate(TEXTS)]
    assert texts(recognise([{"raw": clip, "sampling_rate": RATE} for clip in clips], batch_size=3)) == TEXTS
    assert texts(recognise(clips)) == TEXTS
