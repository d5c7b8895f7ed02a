"""A small run folder, complete and made on the spot: what a training run leaves behind, without the training."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hflab.recipe import parse_recipe
from hflab.run_folder import RunFolder

TOKEN = "hf_" + "a1B2" * 8
NASTY_SAMPLE = "前言 ``` <script>alert(1)</script>\n---\n````\n| a | b |\n<details>{{ card_data }} [More Information](x)\n"

RECIPE: dict[str, Any] = {
    "data": {"source": "text", "path": "/home/somebody/texts/plays.txt", "cache_dir": "/var/cache/hflab"},
    "model": {"family": "recurrent", "cell_type": "gru", "hidden_size": 64},
    "training": {"num_steps": 2000, "learning_rate": 2e-3, "optimizer_arguments": {"betas": [0.9, 0.99]}, "seed": 3},
    "publish": {"license": "apache-2.0", "repo_id": "somebody/plays"},
}

FIGURES = {
    "loss": 1.5598,
    "perplexity": math.exp(1.5598),
    "nats_per_character": 1.5598,
    "bits_per_character": 1.5598 / math.log(2),
    "bits_per_byte": 2.2,
    "num_tokens": 10_001,
    "num_characters": 10_000,
}


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run; `recipe` sections and `facts` replace those above; a fact that is None is left out."""

    def make(recipe: dict[str, Any] | None = None, **facts: Any) -> Path:
        run = RunFolder.create(tmp_path / "runs", None, "plays_gru")
        given = recipe or {}
        merged = given | {name: {**section, **given.get(name, {})} for name, section in RECIPE.items()}
        parse_recipe(merged).save(run.recipe_file)
        run.model.mkdir()
        every = {**_facts(run), **facts}
        run.update_facts(**{name: fact for name, fact in every.items() if fact is not None})
        for step in range(20, 2001, 20):
            bits = 2.2 + 4 * math.exp(-step / 150)
            run.append_metrics({"kind": "train", "step": step, "tokens": step * 1000, "bits_per_character": bits, "loss": bits * math.log(2)})
            if step % 200 == 0:
                figures = {**FIGURES, "loss": (bits + 0.05) * math.log(2), "bits_per_character": bits + 0.05}
                run.append_metrics({"kind": "evaluation", "step": step, "split": "validation", **figures, "sample": "…"})
        return run.path

    return make


def _facts(run: RunFolder) -> dict[str, Any]:
    split = {"characters": 90_000, "bytes": 91_000, "tokens": 90_001, "documents": 1, "unknown_tokens": 0, "sample": NASTY_SAMPLE}
    return {
        "name": run.path.name,
        "command": f"/opt/somewhere/bin/hflab train plays --data.path /home/somebody/texts/plays.txt --token={TOKEN}",
        "recipe": "plays",
        "status": "finished",
        "versions": {"python": "3.11.9", "torch": "2.13.0"},
        "git": {"commit": "0" * 40, "dirty": False},
        "hardware": {"device": "cpu", "processor": "Some CPU @ 2.00GHz", "num_cpus": 2, "memory_gigabytes": 4, "num_processes": 1},
        "seed": 3,
        "prompt": "ROMEO:",
        "data": {
            "name": "plays_*old*.txt",
            "description": "Plays <b>of</b> Shakespeare",
            "license": "mit",
            "language": "en",
            "origin": "plays.txt",
            "fingerprint": "f" * 32,
            "splits": {
                "train": split,
                "validation": {"characters": 10_000, "bytes": 10_100, "tokens": 10_001, "documents": 1, "unknown_tokens": 7, "sample": "ACT I"},
            },
        },
        "model": {
            "class": "RecurrentForCausalLM",
            "num_parameters": 30_123,
            "num_bytes": 121_000,
            "weights_sha256": "ab" * 32,
            "tokenizer_vocab_size": 84,
        },
        "training": {
            "steps": 2000,
            "tokens": 2_000_000,
            "characters": 1_999_000,
            "epochs": 22.2,
            "seconds": 86.4,
            "tokens_per_second": 23_148.1,
            "stopped_by": "budget",
        },
        "evaluation": {"split": "validation", **FIGURES},
        "usage": {
            "code": f'from transformers import pipeline\ngenerator = pipeline("text-generation", model={str(run.model.resolve())!r})',
            "output": "ROMEO: what ```light``` is this",
        },
    }
