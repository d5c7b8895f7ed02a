"""LoRA: what is trained, that the merged folder computes what the adapter does, and adapters that load where hflab is not installed."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from hflab import api
from hflab.errors import UserError
from hflab.generation.options import GenerationOptions
from hflab.recipe import LoraSection, ModelSection
from hflab.training import loop
from hflab.training.adapters import merged_copy, save_adapted_model
from hflab.training.pretrained import load_pretrained_model

pytest.importorskip("peft")
IDS = torch.tensor([[3, 4, 5, 6, 7]])
PREFIXES = {"gpt2": "transformer.h.0.attn.c_attn", "lstm": "model.layers.0.cell.hidden_projection"}


def adapted(folder, head="ForCausalLM", labels=None, new_head=False, **keys):
    """A model whose adapter does something."""
    section = ModelSection(pretrained=folder, lora=LoraSection(rank=2, **keys), new_head=new_head)
    torch.manual_seed(3)
    model = load_pretrained_model(section, head, label_names=labels).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    return model, section.lora


@pytest.mark.parametrize("kind", ["gpt2", "lstm", "mini_transformer"])
def test_only_the_adapter_is_trained_and_it_begins_without_effect(pretrained, kind):
    section = ModelSection(pretrained=pretrained(kind), lora=LoraSection())
    model = load_pretrained_model(section, "ForCausalLM").eval()
    plain = AutoModelForCausalLM.from_pretrained(pretrained(kind)).eval()
    torch.testing.assert_close(model(IDS).logits, plain(IDS).logits)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names
    assert all("lora_" in name for name in names)
    if kind == "lstm":
        assert any("hidden_projection" in name for name in names)


@pytest.mark.parametrize("kind", ["gpt2", "lstm", "mini_transformer"])
def test_merged_folder_computes_what_the_adapter_does(pretrained, kind, tmp_path):
    model, section = adapted(pretrained(kind))
    plain = AutoModelForCausalLM.from_pretrained(pretrained(kind)).eval()
    save_adapted_model(model, section, tmp_path, None)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(merged) is type(plain)
    assert merged.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(merged(IDS).logits, model(IDS).logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(merged(IDS).logits, plain(IDS).logits, atol=1e-3)
    assert not list(tmp_path.glob("adapter*"))
    assert any("lora_" in name for name, _ in model.named_parameters())  # the model itself goes on with its adapter


CODE = """
import sys
sys.modules["hflab"] = None
import torch
from peft import AutoPeftModelForCausalLM
model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1]).eval()
torch.save(model(input_ids=torch.tensor([[3, 4, 5, 6, 7]])).logits.detach(), sys.argv[2])
"""


def test_an_adapter_alone_loads_without_hflab(pretrained, tmp_path):
    model, section = adapted(pretrained("gpt2"), merge=False)
    save_adapted_model(model, section, tmp_path / "adapter", None)
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == pretrained("gpt2")
    assert config["task_type"] == "CAUSAL_LM"
    assert {file.name for file in (tmp_path / "adapter").iterdir()} >= {"adapter_model.safetensors", "adapter_config.json"}
    assert all("lora_" in name for name in load_file(tmp_path / "adapter/adapter_model.safetensors"))
    result = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "adapter"), str(tmp_path / "logits.pt")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    logits = torch.load(tmp_path / "logits.pt", weights_only=True)
    torch.testing.assert_close(logits, model(IDS).logits, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(logits, merged_copy(model)(IDS).logits, atol=1e-5, rtol=1e-5)


def test_a_new_head_is_trained_with_the_adapter_and_merged(pretrained, tmp_path):
    labels = ["a", "b", "c"]
    model, section = adapted(pretrained("bert"), "ForSequenceClassification", labels, new_head=True)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("classifier" in name for name in trained)
    assert any("pooler" in name for name in trained)
    save_adapted_model(model, section, tmp_path / "merged", None)
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    assert merged.config.id2label == {0: "a", 1: "b", 2: "c"}
    torch.testing.assert_close(merged(IDS).logits, model(IDS).logits, atol=1e-5, rtol=1e-5)


def test_a_new_head_beside_an_adapter_alone_loads_by_peft(pretrained, tmp_path):
    from peft import AutoPeftModelForSequenceClassification

    model, section = adapted(pretrained("bert"), "ForSequenceClassification", ["a", "b", "c"], new_head=True, merge=False)
    save_adapted_model(model, section, tmp_path / "adapter", None)
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter", num_labels=3).eval()
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits, atol=1e-5, rtol=1e-5)


def test_targets_can_be_named(pretrained):
    model, _ = adapted(pretrained("gpt2"), target_modules=["c_fc"])
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names
    assert all(".mlp.c_fc.lora_" in name for name in names)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [(["c_atn"], "Did you mean 'c_attn'"), (["wte"], "embedding and head share"), (["lm_head"], "embedding and head share")],
)
def test_impossible_targets_are_refused(pretrained, targets, expected):
    with pytest.raises(UserError, match=expected):
        adapted(pretrained("gpt2"), target_modules=targets)


def test_without_peft_the_extra_is_named(pretrained, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"hflab\[lora\]"):
        adapted(pretrained("gpt2"))


@pytest.mark.parametrize("merge", [True, False])
def test_a_run_leaves_a_folder_that_evaluates_and_generates(fine_tuning_recipe, tmp_path, merge):
    recipe = fine_tuning_recipe("gpt2", model={"lora": {"rank": 2, "merge": merge}}, training={"learning_rate": 0.02})
    run = api.train(recipe, output=tmp_path, run_name="lora")
    assert (run.model / "adapter_model.safetensors").is_file() != merge
    assert (run.model / "model.safetensors").is_file() == merge
    recorded = run.read_facts()["evaluation"]["loss"]
    assert api.evaluate(run.path)["loss"] == pytest.approx(recorded, rel=1e-5)
    assert any(api.generate_batch(run.path, ["the "] * 4, GenerationOptions(max_new_tokens=8, seed=1)))
    assert "output" in run.read_facts()["usage"]
    assert (run.model / "README.md").is_file()


def test_loading_leaves_no_trace_in_the_pretrained_folder(fine_tuning_recipe, tmp_path):
    recipe = fine_tuning_recipe("gpt2", model={"lora": {}}, training={"num_steps": 2})
    before = load_file(f"{recipe.model.pretrained}/model.safetensors")
    loop.train(recipe, name="lora", output=tmp_path)
    after = load_file(f"{recipe.model.pretrained}/model.safetensors")
    assert all(torch.equal(value, after[name]) for name, value in before.items())
