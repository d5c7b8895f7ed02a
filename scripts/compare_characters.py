"""The four cells at equal parameters and equal seconds on Shakespeare's characters.

python scripts/reproduce_cells.py --seconds 60 --seeds 1 2 3

Every cell gets the hidden size that brings its parameters closest to those of the recipe `char_lstm_shakespeare`, and everything else from
that recipe. Printed are nats per character on the held-out tenth (mean and range over the seeds) and tokens per second while training.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch

import hflab
from hflab.models import build_model
from hflab.models.recurrent import CELLS

RECIPE = "char_lstm_shakespeare"
VOCABULARY = 87  # 84 characters and the special tokens; it moves the parameters by a hair


def count_parameters(**config: object) -> int:
    """Parameters of the language model, without allocating them."""
    with torch.device("meta"):
        model = build_model("recurrent", "ForCausalLM", {"vocab_size": VOCABULARY, **config})
    return sum(parameter.numel() for parameter in model.parameters())


def equal_hidden_size(cell: str, config: dict[str, object], wanted: int) -> int:
    """Multiple of 4 whose parameter count comes closest to `wanted`."""
    return min(range(64, 1025, 4), key=lambda size: abs(count_parameters(**{**config, "cell_type": cell, "hidden_size": size}) - wanted))


def main() -> None:
    """Train every cell with every seed and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    config = hflab.load_recipe(RECIPE).model.config
    wanted = count_parameters(**config)
    print("| cell | hidden size | parameters | nats/char | range | tokens/s |\n|---|---|---|---|---|---|", flush=True)
    for cell in CELLS:
        size = equal_hidden_size(cell, config, wanted)
        overrides = {
            "model.cell_type": cell,
            "model.hidden_size": size,
            "training.num_steps": None,
            "training.max_seconds": options.seconds,
            "training.evaluate_every_steps": 10**9,
            "training.device": "cpu",
            "evaluation.sample_tokens": 0,
        }
        losses, speeds = [], []
        with tempfile.TemporaryDirectory() as folder:
            for seed in options.seeds:
                facts = hflab.train(RECIPE, {**overrides, "training.seed": seed}, output=Path(folder)).read_facts()
                losses.append(facts["evaluation"]["nats_per_character"])
                speeds.append(facts["training"]["tokens_per_second"])
        mean, spread = statistics.mean(losses), f"{min(losses):.3f}-{max(losses):.3f}"
        print(f"| {cell} | {size} | {facts['model']['num_parameters']:,} | {mean:.3f} | {spread} | {statistics.median(speeds):,.0f} |", flush=True)


if __name__ == "__main__":
    main()
