"""A saved folder in a process that has no hflab and no network: same outputs of every head, pipelines, and saving again from there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hflab.models import mini_transformer
from hflab.models.mini_transformer import AUTO_MAP, HEADS, MiniTransformerConfig, MiniTransformerModel

ARCHITECTURES = {
    "vaswani": {},
    "bert": {"hidden_act": "gelu", "position_embedding_type": "learned", "embedding_norm": True, "scale_embedding": False, "type_vocab_size": 2},
    "llama": {"hidden_act": "swiglu", "position_embedding_type": "rotary", "norm_position": "pre", "tie_word_embeddings": False},
}
CASES = [(head, "vaswani") for head in HEADS] + [(head, name) for head in ("ForCausalLM", "ForMaskedLM") for name in ("bert", "llama")]
CHARACTERS = ["<pad>", "<start>", "<end>", "<mask>", *"abcdefgh "]

# Runs by itself: it gets a folder of model folders and writes what it found for each as JSON.
STRANGER = """
import json, sys
from pathlib import Path
sys.modules["hflab"] = None  # an import of hflab fails even where it is installed
import torch, transformers
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoTokenizer, pipeline

# The order of sums, and so the last bit, depends on the number of threads and on where in memory the weights begin: a file is mapped as it comes.
torch.set_num_threads(int(sys.argv[2]))
TASKS = {
    "ForCausalLM": "text-generation",
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
}

def load(auto_class, folder):
    model = auto_class.from_pretrained(folder, trust_remote_code=True).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model

def run(model, input_ids):
    inputs = {"decoder_input_ids": input_ids} if hasattr(model, "decoder") else {}
    return model(input_ids=input_ids, **inputs)[0]

def use(folder, head):
    # what pipelines, or for lack of one `generate`, say of two texts
    texts = ["ab<mask>d", "h<mask>"]
    if head == "ForConditionalGeneration":
        inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
        return load(transformers.AutoModelForSeq2SeqLM, folder).generate(**inputs, max_new_tokens=6).tolist()
    if head not in TASKS:
        return None
    options = {"ForCausalLM": {"max_new_tokens": 6, "do_sample": False}, "ForMaskedLM": {"top_k": 2}}.get(head, {})
    return pipeline(TASKS[head], model=str(folder), trust_remote_code=True)(texts, batch_size=2, **options)

findings = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    plan = json.loads((folder / "expected" / "plan.json").read_text())
    auto_class = getattr(transformers, plan["auto_class"])
    expected = load_file(folder / "expected" / "outputs.safetensors")
    input_ids = expected["input_ids"]
    model, base = load(auto_class, folder), load(AutoModel, folder)
    model.save_pretrained(folder / "again")
    base.save_pretrained(folder / "base")
    others = [getattr(transformers, name).from_pretrained(folder / "base", trust_remote_code=True) for name in plan["others"]]
    findings[folder.name] = {
        "classes": [type(thing).__name__ for thing in (AutoConfig.from_pretrained(folder, trust_remote_code=True), base, model)],
        "same outputs": torch.equal(run(model, input_ids), expected["outputs"]),
        "same after saving again": torch.equal(run(load(auto_class, folder / "again"), input_ids), expected["outputs"]),
        "same hidden": torch.equal(base(input_ids=input_ids).last_hidden_state, expected["hidden"]),
        "others": [type(other).__name__ for other in others],
        "texts": use(folder, plan["head"]),
    }
loaded = [name for name in sys.modules if name.split(".")[0] == "hflab" and sys.modules[name]]
Path(sys.argv[3]).write_text(json.dumps({"findings": findings, "modules": loaded}, default=float))
"""

# Heads that can open a base model, by the head whose base model it is: one that reads from left to right fills in nothing and encodes nothing.
FITTING = {head: list(HEADS) for head in HEADS} | {
    "ForCausalLM": ["Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification"],
    "ForConditionalGeneration": [head for head in HEADS if head != "ForCausalLM"],
}


def tokenizer():
    vocabulary = {character: index for index, character in enumerate(CHARACTERS)}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    characters.decoder = decoders.Fuse()
    special = {"pad_token": "<pad>", "bos_token": "<start>", "eos_token": "<end>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=characters, padding_side="left", **special)


def outputs_of(model, input_ids):
    inputs = {"decoder_input_ids": input_ids} if hasattr(model, "decoder") else {}
    return model(input_ids=input_ids, **inputs)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder for every case, with the outputs it gives here."""
    root = tmp_path_factory.mktemp("models")
    input_ids = torch.arange(4, 12)[None]
    for head, name in CASES:
        torch.manual_seed(0)
        special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        fields = {"vocab_size": len(CHARACTERS), "hidden_size": 8, "num_hidden_layers": 2, **special} | ARCHITECTURES[name]
        model = HEADS[head](MiniTransformerConfig(**fields)).eval()
        place = root / f"{head}-{name}"
        model.save_pretrained(place)
        tokenizer().save_pretrained(place)
        (place / "expected").mkdir()
        plan = {"head": head, "auto_class": HEADS[head]._auto_class, "others": [HEADS[other]._auto_class for other in FITTING[head]]}
        (place / "expected" / "plan.json").write_text(json.dumps(plan))
        hidden = model.base_model(input_ids=input_ids).last_hidden_state
        outputs = {"input_ids": input_ids, "outputs": outputs_of(model, input_ids), "hidden": hidden}
        save_file({key: value.detach().clone() for key, value in outputs.items()}, place / "expected" / "outputs.safetensors")
    return root


@pytest.fixture(scope="module")
def stranger(folder, tmp_path_factory):
    """What a process without hflab finds in those folders."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    environment = {"PATH": os.environ["PATH"], "HOME": str(elsewhere), "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(elsewhere / "modules")}
    command = [sys.executable, "-I", "-c", STRANGER, str(folder), str(torch.get_num_threads()), str(elsewhere / "findings.json")]
    process = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads((elsewhere / "findings.json").read_text())


def test_hflab_was_not_there(stranger):
    assert stranger["modules"] == []
    assert sorted(stranger["findings"]) == sorted(f"{head}-{name}" for head, name in CASES)


@pytest.mark.parametrize(("head", "name"), CASES)
def test_same_outputs_without_hflab(stranger, head, name):
    found = stranger["findings"][f"{head}-{name}"]
    assert found["classes"] == ["MiniTransformerConfig", "MiniTransformerModel", HEADS[head].__name__]
    assert found["others"] == [HEADS[other].__name__ for other in FITTING[head]]
    assert found["same outputs"]
    assert found["same hidden"]
    assert found["same after saving again"]


def check_text(head, model, said, text):
    """Hold what a pipeline said of a text against the model itself."""
    read = tokenizer()
    inputs = read(text, return_tensors="pt", return_token_type_ids=False)
    ids = inputs["input_ids"][0]
    if head == "ForCausalLM":
        new = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, len(ids) :]
        assert said[0]["generated_text"] == text + read.decode(new, skip_special_tokens=True)
        return
    scores = model(**inputs).logits[0].softmax(-1).detach()
    if head == "ForMaskedLM":
        best = scores[ids == read.mask_token_id][0].topk(2)
        assert [answer["token"] for answer in said] == best.indices.tolist()
        assert [answer["score"] for answer in said] == pytest.approx(best.values.tolist(), abs=1e-5)
    elif head == "ForSequenceClassification":
        assert (said["label"], said["score"]) == (f"LABEL_{scores.argmax()}", pytest.approx(scores.max().item(), abs=1e-5))
    else:
        assert [word["index"] for word in said] == list(range(4 - len(ids), 4))  # in the batch, whose rows are padded on the left to four tokens
        assert [word["score"] for word in said] == pytest.approx(scores.max(-1).values.tolist(), abs=1e-5)


@pytest.mark.parametrize(("head", "name"), CASES)
def test_pipelines_without_hflab(stranger, folder, head, name):
    said = stranger["findings"][f"{head}-{name}"]["texts"]
    if head in ("Model", "ForPreTraining"):
        assert said is None  # no pipeline for them but feature extraction, which takes any base model
        return
    model, texts = HEADS[head].from_pretrained(folder / f"{head}-{name}").eval(), ["ab<mask>d", "h<mask>"]
    if head == "ForConditionalGeneration":
        inputs = tokenizer()(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
        assert said == model.generate(**inputs, max_new_tokens=6).tolist()
    else:
        for answer, text in zip(said, texts, strict=True):
            check_text(head, model, answer, text)


def test_folder_carries_the_code_and_one_map(folder, stranger):
    package = Path(mini_transformer.__file__).parent
    own_code = {path.name for path in package.glob("*_mini_transformer.py")}
    assert len(own_code) >= 7
    for head, name in CASES:
        case = folder / f"{head}-{name}"
        for place in (case, case / "again", case / "base"):
            assert {path.name for path in place.glob("*.py")} == own_code
            assert json.loads((place / "config.json").read_text())["auto_map"] == AUTO_MAP
            assert not list(place.glob("*.bin"))
            assert not list(place.glob("*.p*kl*"))


def test_base_model_carries_the_code_too(tmp_path):
    MiniTransformerModel(MiniTransformerConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1)).save_pretrained(tmp_path)
    assert (tmp_path / "heads_seq2seq_mini_transformer.py").exists()
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == AUTO_MAP
