"""A small text and a recipe for it that trains in a second."""

import random

import pytest

from hflab.recipe import parse_recipe

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
