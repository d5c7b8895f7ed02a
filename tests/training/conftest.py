"""A small text and a recipe for it that trains in a second."""

import json
import random
import sys
from pathlib import Path

import pytest

from hflab.recipe import parse_recipe

sys.path.insert(0, str(Path(__file__).parent))
from small_models import save

WORDS = [
    "the",
    "a",
    "king",
    "queen",
    "sword",
    "night",
    "love",
    "speaks",
    "falls",
    "rises",
    "of",
    "to",
    "and",
    "in",
    "my",
    "thy",
    "good",
    "sweet",
    "cold",
]


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """About 6,000 characters of seeded word salad."""
    draw = random.Random(0)
    lines = [" ".join(draw.choices(WORDS, k=draw.randint(3, 9))) for _ in range(200)]
    file = tmp_path_factory.mktemp("text") / "salad.txt"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.fixture
def make_recipe(text_file):
    """Build the small recipe with changes: `make_recipe(training={"num_steps": 4})`."""

    def make(**changes):
        values = {
            "data": {"source": "text", "path": str(text_file), "sequence_length": 16, "license": "cc0-1.0", "language": "en"},
            "model": {"family": "recurrent", "cell_type": "lstm", "hidden_size": 12, "recurrent_dropout": 0.1, "input_dropout": 0.1},
            "training": {"num_steps": 12, "batch_size": 8, "learning_rate": 0.01, "log_every_steps": 2, "device": "cpu"},
            "evaluation": {"batch_size": 4, "sample_prompt": "the ", "sample_tokens": 8},
        }
        for section, keys in changes.items():
            values[section] = {**values.get(section, {}), **keys}
        return parse_recipe(values)

    return make


SMALL_MODELS = {
    "recurrent": {"cell_type": "gru", "hidden_size": 16, "output_dropout": 0.1},
    "mini_transformer": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64},
}
# task: family; every head of both families that a task trains
TASK_FAMILIES = [
    ("seq2seq", "recurrent"),
    ("seq2seq", "mini_transformer"),
    ("text_classification", "recurrent"),
    ("text_classification", "mini_transformer"),
    ("token_classification", "recurrent"),
    ("token_classification", "mini_transformer"),
    ("masked_lm", "mini_transformer"),
]


def _rows(task):
    """300 seeded rows: letters and their reverse in capitals, with a second answer; texts by who they are about; words by their first letter."""
    draw = random.Random(1)
    for _ in range(300):
        words = draw.choices(WORDS, k=draw.randint(3, 8))
        if task == "seq2seq":
            letters = draw.choices("abcdef", k=draw.randint(2, 6))
            yield {"source": " ".join(letters), "target": " ".join(reversed(letters)).upper()}
        elif task == "text_classification":
            who = draw.choice(["king", "queen"])
            yield {"text": " ".join([who, *words, who]), "label": who}
        elif task == "token_classification":
            yield {"tokens": words, "labels": ["vowel" if word[0] in "aeiou" else "consonant" for word in words]}
        else:
            yield {"text": ". ".join(" ".join(draw.choices(WORDS, k=5)).capitalize() for _ in range(6)) + "."}


@pytest.fixture(scope="session")
def example_files(tmp_path_factory):
    """A .jsonl file of rows for each task, by its name."""
    folder = tmp_path_factory.mktemp("rows")
    files = {}
    for task in dict(TASK_FAMILIES):
        files[task] = folder / f"{task}.jsonl"
        files[task].write_text("\n".join(json.dumps(row) for row in _rows(task)), encoding="utf-8")
    return files


@pytest.fixture
def make_task_recipe(example_files):
    """Build a small recipe of a task for a family with changes: `make_task_recipe("seq2seq", "recurrent", training={"num_steps": 4})`."""

    def make(task, family="mini_transformer", **changes):
        tokenizer = {"seq2seq": "symbols", "masked_lm": "word"}.get(task, "word")
        data = {"path": str(example_files[task]), "license": "cc0-1.0", "language": "en"}
        if task == "masked_lm":
            data |= {"source": "text", "split_by": "document", "sequence_length": 32}
        else:
            data |= {"source": "examples", "max_source_tokens": 32}
        values = {
            "task": task,
            "data": data,
            "processor": {"tokenizer": tokenizer},
            "model": {"family": family, **SMALL_MODELS[family]},
            "training": {"num_steps": 12, "batch_size": 8, "learning_rate": 0.01, "log_every_steps": 2, "device": "cpu"},
            "evaluation": {"batch_size": 8, "sample_examples": 2, "max_examples": 12, "max_tokens": 60},
        }
        for section, keys in changes.items():
            values[section] = {**values.get(section, {}), **keys} if isinstance(keys, dict) else keys
        return parse_recipe(values)

    return make


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """A folder with a small pretrained model: `pretrained("gpt2")`; the kinds are those of small_models.py."""
    folders = {}

    def folder_of(kind):
        if kind not in folders:
            folders[kind] = save(kind, tmp_path_factory.mktemp("pretrained") / kind)
        return folders[kind]

    return folder_of


@pytest.fixture
def fine_tuning_recipe(text_file, pretrained):
    """Build a small fine-tuning recipe: `fine_tuning_recipe("gpt2", model={"freeze": [...]})`."""

    def make(kind, **changes):
        layout = "windows" if kind in ("gpt2", "mini_transformer", "bert") else "lanes"
        values = {
            "data": {"source": "text", "path": str(text_file), "sequence_length": 16, "layout": layout},
            "model": {"pretrained": pretrained(kind)},
            "training": {"num_steps": 12, "batch_size": 8, "learning_rate": 1e-3, "log_every_steps": 2, "evaluate_every_steps": 6, "device": "cpu"},
            "evaluation": {"batch_size": 4, "sample_prompt": "the ", "sample_tokens": 4},
        }
        for section, keys in changes.items():
            values[section] = {**values.get(section, {}), **keys}
        return parse_recipe(values)

    return make
