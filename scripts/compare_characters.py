"""Recurrent cells and Transformers at equal parameters and equal seconds on Shakespeare's characters.

python scripts/compare_characters.py --seconds 60 --seeds 1 2 3

Every model gets the width that brings its parameters closest to those of the recipe `char_lstm_shakespeare`, and everything else from its own recipe:
the cells from that one, the mini-Transformer from `char_transformer_shakespeare`, GPT-2 from `gpt2_scratch_shakespeare`. Printed are nats per
character on the held-out tenth (mean and range over the seeds) and tokens per second while training.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

import hflab
from hflab.models import build_model
from hflab.models.recurrent import CELLS

VOCABULARY = 87  # 84 characters and the special tokens; it moves the parameters by a hair


class Contestant(NamedTuple):
    """What is compared: a recipe, and what of its model section is changed."""

    recipe: str
    changes: dict[str, Any]
    width_step: int
    """Widths are multiples of it: heads share a width out evenly, and rotary positions turn pairs."""


CONTESTANTS = {cell: Contestant("char_lstm_shakespeare", {"cell_type": cell}, 4) for cell in CELLS}
CONTESTANTS["mini_transformer"] = Contestant("char_transformer_shakespeare", {}, 8)
CONTESTANTS["gpt2"] = Contestant("gpt2_scratch_shakespeare", {}, 4)


def count_parameters(recipe: str, changes: dict[str, Any]) -> int:
    """Parameters of the recipe's language model, without allocating them."""
    loaded = hflab.load_recipe(recipe)
    section, length = loaded.model, loaded.data.sequence_length
    assert section.family is not None
    positions = {"n_positions": length} if section.family == "gpt2" else {}
    with torch.device("meta"):
        model = build_model(section.family, "ForCausalLM", {"vocab_size": VOCABULARY, **positions, **section.config, **changes})
    return sum(parameter.numel() for parameter in model.parameters())


def equal_width(contestant: Contestant, wanted: int) -> int:
    """The width whose parameter count comes closest to `wanted`."""
    widths = range(8 * contestant.width_step, 1025, contestant.width_step)
    return min(widths, key=lambda width: abs(count_parameters(contestant.recipe, {**contestant.changes, "hidden_size": width}) - wanted))


def main() -> None:
    """Train every model with every seed and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--models", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS))
    options = parser.parse_args()
    wanted = count_parameters("char_lstm_shakespeare", {})
    print("| model | width | parameters | nats/char | range | tokens/s |\n|---|---|---|---|---|---|", flush=True)
    for name in options.models:
        contestant = CONTESTANTS[name]
        width = equal_width(contestant, wanted)
        overrides = {
            **{f"model.{field}": value for field, value in contestant.changes.items()},
            "model.hidden_size": width,
            "training.num_steps": None,
            "training.max_seconds": options.seconds,
            "training.evaluate_every_steps": 10**9,
            "training.device": "cpu",
            "evaluation.sample_tokens": 0,
        }
        losses, speeds = [], []
        with tempfile.TemporaryDirectory() as folder:
            for seed in options.seeds:
                facts = hflab.train(contestant.recipe, {**overrides, "training.seed": seed}, output=Path(folder)).read_facts()
                losses.append(facts["evaluation"]["nats_per_character"])
                speeds.append(facts["training"]["tokens_per_second"])
        mean, spread = statistics.mean(losses), f"{min(losses):.3f}-{max(losses):.3f}"
        print(f"| {name} | {width} | {facts['model']['num_parameters']:,} | {mean:.3f} | {spread} | {statistics.median(speeds):,.0f} |", flush=True)


if __name__ == "__main__":
    main()
