"""A saved folder in a process that has no hflab and no network: same logits, pipeline, and saving again from there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hflab.models import recurrent
from hflab.models.recurrent import AUTO_MAP, BLOCKS, CELLS, RecurrentConfig, RecurrentForCausalLM, RecurrentModel

CASES = {f"{cell_type}-{block_style}": {"cell_type": cell_type, "block_style": block_style} for cell_type in CELLS for block_style in BLOCKS}
CASES["tied"] = {"tie_word_embeddings": True, "embedding_size": 4}
CHARACTERS = ["<pad>", "<end>", *"abcdefgh "]

# Runs by itself: it gets a folder of model folders and prints what it found for each as JSON.
STRANGER = """
import json, sys
from pathlib import Path
sys.modules["hflab"] = None  # an import of hflab fails even where it is installed
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, pipeline

# The order of sums, and so the last bit, depends on the number of threads and on where in memory the weights begin: a file is mapped as it comes.
torch.set_num_threads(int(sys.argv[2]))

def load(auto_class, folder):
    model = auto_class.from_pretrained(folder, trust_remote_code=True).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model

findings = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    expected = load_file(folder / "expected" / "outputs.safetensors")
    model = load(AutoModelForCausalLM, folder)
    again = folder / "again"
    model.save_pretrained(again)
    reloaded = load(AutoModelForCausalLM, again)
    base = load(AutoModel, folder)
    base.save_pretrained(folder / "base")
    features = pipeline("feature-extraction", model=str(folder), trust_remote_code=True)("abc", return_tensors=True)
    write = pipeline("text-generation", model=str(folder), trust_remote_code=True)
    findings[folder.name] = {
        "classes": [type(thing).__name__ for thing in (AutoConfig.from_pretrained(folder, trust_remote_code=True), base, model)],
        "same logits": torch.equal(model(input_ids=expected["input_ids"]).logits, expected["logits"]),
        "same hidden": torch.equal(base(input_ids=expected["input_ids"]).last_hidden_state, expected["hidden"]),
        "same after saving again": torch.equal(reloaded(input_ids=expected["input_ids"]).logits, expected["logits"]),
        "base saved again": type(AutoModel.from_pretrained(folder / "base", trust_remote_code=True)).__name__,
        "features": bool((features - expected["features"]).abs().max() < 1e-6),
        "text": write("abc", max_new_tokens=6, do_sample=False)[0]["generated_text"],
        "texts": [text[0]["generated_text"] for text in write(["abc", "h"], batch_size=2, max_new_tokens=6, do_sample=False)],
    }
print(json.dumps({"findings": findings, "modules": [name for name in sys.modules if name.split(".")[0] == "hflab" and sys.modules[name]]}))
"""


def tokenizer():
    vocabulary = {character: index for index, character in enumerate(CHARACTERS)}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    characters.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=characters, pad_token="<pad>", eos_token="<end>", padding_side="left")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder for every case, with the outputs it gives here."""
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("models")
    input_ids = torch.arange(2, 11)[None]
    for name, fields in CASES.items():
        torch.manual_seed(0)
        fields = {"vocab_size": len(CHARACTERS), "hidden_size": 8, "num_hidden_layers": 2, "pad_token_id": 0, "eos_token_id": 1} | fields
        model = RecurrentForCausalLM(RecurrentConfig(**fields)).eval()
        model.save_pretrained(root / name)
        tokenizer().save_pretrained(root / name)
        (root / name / "expected").mkdir()
        outputs = {
            "input_ids": input_ids,
            "logits": model(input_ids=input_ids).logits,
            "hidden": model.model(input_ids=input_ids).last_hidden_state,
            "features": model.model(**tokenizer()("abc", return_tensors="pt")).last_hidden_state,
        }
        save_file({key: value.detach().contiguous() for key, value in outputs.items()}, root / name / "expected" / "outputs.safetensors")
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


@pytest.mark.parametrize("case", CASES)
def test_same_outputs_without_hflab(stranger, case):
    found = stranger["findings"][case]
    assert found["classes"] == ["RecurrentConfig", "RecurrentModel", "RecurrentForCausalLM"]
    assert found["base saved again"] == "RecurrentModel"
    assert found["same logits"]
    assert found["same hidden"]
    assert found["same after saving again"]


@pytest.mark.parametrize("case", CASES)
def test_pipelines_without_hflab(stranger, folder, case):
    model, read = RecurrentForCausalLM.from_pretrained(folder / case).eval(), tokenizer()
    found = stranger["findings"][case]
    texts = []
    for prompt in ("abc", "h"):
        sequence = model.generate(**read(prompt, return_tensors="pt", return_token_type_ids=False), max_new_tokens=6, do_sample=False)
        texts.append(prompt + read.decode(sequence[0, len(prompt) :], skip_special_tokens=True))
    assert found["features"]
    assert found["texts"] == texts
    assert found["text"] == texts[0]


def test_folder_carries_the_code_and_one_map(folder, stranger):
    package = Path(recurrent.__file__).parent
    # a model needs no feature extractor: that file travels with the one that is saved (tests/models/test_ctc_recurrent.py)
    own_code = {path.name for path in package.glob("*_recurrent.py")} - {"feature_extraction_recurrent.py"}
    assert len(own_code) >= 6
    for case in CASES:
        for place in (folder / case, folder / case / "again", folder / case / "base"):
            assert {path.name for path in place.glob("*.py")} == own_code
            assert json.loads((place / "config.json").read_text())["auto_map"] == AUTO_MAP
            assert not list(place.glob("*.bin"))
            assert not list(place.glob("*.p*kl*"))


def test_base_model_carries_the_code_too(tmp_path):
    RecurrentModel(RecurrentConfig(hidden_size=4, bidirectional=True)).save_pretrained(tmp_path)
    assert (tmp_path / "sequence_recurrent.py").exists()
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == AUTO_MAP
