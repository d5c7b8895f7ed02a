"""Folders of every head in a process that has no hflab and no network: same logits, generation and pipelines, whatever Auto class opens them.

The speech recogniser, which reads features instead of text, is in test_custom_code_ctc_recurrent.py.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, pipeline

from hflab.models.recurrent import ATTENTIONS, AUTO_MAP, HEADS, RecurrentConfig

TEXT_HEADS = [head for head, model_class in HEADS.items() if model_class.main_input_name == "input_ids"]
CASES = {head: (head, {"bidirectional": head != "ForCausalLM"}) for head in TEXT_HEADS}
CASES |= {f"attention-{name}": ("ForConditionalGeneration", {"attention_type": name, "share_embeddings": True}) for name in [*ATTENTIONS, "none"]}
CASES["pooled"] = ("ForSequenceClassification", {"pooling": "max", "block_style": "residual", "num_labels": 3})
PIPELINES = {"ForSequenceClassification": "text-classification", "ForTokenClassification": "token-classification"}
TEXTS = ["a b c d", "e f"]
OTHER_HEADS = ["AutoModel", "AutoModelForSequenceClassification", "AutoModelForTokenClassification", "AutoModelForSeq2SeqLM"]

# Runs by itself: it gets a folder of model folders and prints what it found for each as JSON.
STRANGER = """
import json, sys
from pathlib import Path
sys.modules["hflab"] = None  # an import of hflab fails even where it is installed
import torch, transformers
from safetensors.torch import load_file

torch.set_num_threads(int(sys.argv[2]))
torch.set_grad_enabled(False)  # as where the models were saved: with gradients torch has another LSTM kernel

def load(auto_class, folder):
    model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # where in memory a file is mapped decides on the order of sums
    return model

findings = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    expected = load_file(folder / "expected" / "outputs.safetensors")
    case = json.loads((folder / "expected" / "case.json").read_text())
    inputs = {name: expected[name] for name in case["inputs"]}
    model = load(case["auto_class"], folder)
    model.save_pretrained(folder / "again")
    reloaded = load(case["auto_class"], folder / "again")
    found = {
        "class": type(model).__name__,
        "module": type(model).__module__.split(".")[0],
        "same": torch.equal(model(**inputs)[0], expected["result"]),
        "same after saving again": torch.equal(reloaded(**inputs)[0], expected["result"]),
        "other heads": [type(load(other, folder / "again")).__name__ for other in case["other_heads"]],
    }
    if "written" in expected:
        found["written"] = torch.equal(model.generate(expected["input_ids"], max_new_tokens=6, num_beams=2, do_sample=False), expected["written"])
    if case["pipeline"]:
        answer = transformers.pipeline(case["pipeline"], model=str(folder), trust_remote_code=True)
        found["answers"] = json.loads(json.dumps(answer(case["texts"], batch_size=2), default=float))
    features = transformers.pipeline("feature-extraction", model=str(folder), trust_remote_code=True)
    found["features"] = bool((features("a b c", return_tensors=True) - expected["features"]).abs().max() < 1e-6)
    findings[folder.name] = found
print(json.dumps({"findings": findings, "modules": [name for name in sys.modules if name.split(".")[0] == "hflab" and sys.modules[name]]}))
"""


def tokenizer():
    words = ["<pad>", "<start>", "<end>", *"abcdefgh"]
    letters = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>"))
    letters.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=letters, pad_token="<pad>", eos_token="<end>")


@torch.no_grad()
def save_case(folder, head, fields):
    """Save a model with what it computes here."""
    torch.manual_seed(0)
    fields = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | fields
    model = HEADS[head](RecurrentConfig(**fields)).eval()
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    inputs = {"input_ids": torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 3, 0]]), "attention_mask": torch.tensor([[1] * 5, [1, 1, 1, 1, 0]])}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.tensor([[1, 4, 5], [1, 6, 6]])
    base = model if head == "Model" else model.model
    outputs = inputs | {"result": model(**inputs)[0], "features": base(**tokenizer()("a b c", return_tensors="pt"))[0]}
    if model.config.is_encoder_decoder:
        outputs["written"] = model.generate(inputs["input_ids"], max_new_tokens=6, num_beams=2, do_sample=False)
    case = {"inputs": list(inputs), "auto_class": model._auto_class, "pipeline": PIPELINES.get(head), "texts": TEXTS, "other_heads": OTHER_HEADS}
    (folder / "expected").mkdir()
    save_file({name: tensor.contiguous() for name, tensor in outputs.items()}, folder / "expected" / "outputs.safetensors")
    (folder / "expected" / "case.json").write_text(json.dumps(case))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("heads")
    for name, (head, fields) in CASES.items():
        (root / name).mkdir()
        save_case(root / name, head, fields)
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


def test_hflab_was_not_there(stranger):
    assert stranger["modules"] == []
    assert sorted(stranger["findings"]) == sorted(CASES)
    assert {head for head, _ in CASES.values()} == set(TEXT_HEADS) == set(HEADS) - {"ForCTC"}


@pytest.mark.parametrize("case", CASES)
def test_same_without_hflab(stranger, case):
    found, head = stranger["findings"][case], CASES[case][0]
    assert found["class"] == HEADS[head].__name__
    assert found["module"] == "transformers_modules"
    assert found["same"]
    assert found["same after saving again"]
    assert found.get("written", True)
    assert found["features"]
    assert found["other heads"] == [AUTO_MAP[name].split(".")[1] for name in OTHER_HEADS]


@pytest.mark.parametrize("case", [name for name, (head, _) in CASES.items() if head in PIPELINES])
def test_pipelines_without_hflab(stranger, folder, case):
    here = pipeline(PIPELINES[CASES[case][0]], model=str(folder / case))(TEXTS, batch_size=2)
    answers = stranger["findings"][case]["answers"]
    assert len(answers) == 2
    for there, expected in zip(answers, here, strict=True):
        for one, other in [(there, expected)] if isinstance(there, dict) else zip(there, expected, strict=True):
            assert one.pop("score") == pytest.approx(float(other.pop("score")), abs=1e-6)
            assert one == other
