"""Overhead of the training loop: tokens per second of hflab's loop beside a bare hand-written torch loop on the same model shape.

python scripts/benchmark_loop.py --pairs 5

Both train a character LSTM on Shakespeare with AdamW, clipping and carried state for the same number of steps, in turn. The ratio is taken
pair by pair, so that a machine whose speed drifts does not decide it.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import hflab
from hflab.data.batches import PreparedText, prepare_text

OVERRIDES = {
    "model.hidden_size": 256,
    "training.num_steps": 300,
    "training.optimizer": "adamw",
    "training.state_reset_probability": 0.0,
    "training.optimizer_arguments": {},
    "training.log_every_steps": 50,
    "training.evaluate_every_steps": 10_000,
    "training.device": "cpu",
    "evaluation.sample_tokens": 0,
}


class BareModel(nn.Module):
    """Embedding, nn.LSTM and output layer."""

    def __init__(self, vocab_size: int, embedding_size: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_size)
        self.lstm = nn.LSTM(embedding_size, hidden_size, batch_first=True)
        self.head = nn.Linear(hidden_size, vocab_size)


def bare_tokens_per_second(text: PreparedText, recipe: hflab.Recipe) -> float:
    """Train without hflab: the least that a loop can do."""
    torch.manual_seed(recipe.training.seed)
    config = recipe.model.config
    model = BareModel(len(text.tokenizer), config["embedding_size"], config["hidden_size"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.training.learning_rate, fused=True)
    lanes, length = recipe.training.batch_size, recipe.data.sequence_length
    tokens = torch.from_numpy(text.splits["train"].tokens.astype("int64"))
    tokens = tokens[: len(tokens) // lanes * lanes].view(lanes, -1)
    state, num_steps = None, recipe.training.num_steps or 1
    started = time.perf_counter()
    for step in range(num_steps):
        start = step * length
        inputs, targets = tokens[:, start : start + length], tokens[:, start + 1 : start + length + 1]
        outputs, state = model.lstm(model.embedding(inputs), state)
        state = (state[0].detach(), state[1].detach())
        loss = F.cross_entropy(model.head(outputs).flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return num_steps * lanes * length / (time.perf_counter() - started)


def main() -> None:
    """Time pairs and print their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    recipe = hflab.load_recipe("char_lstm_shakespeare", OVERRIDES)
    text = prepare_text(recipe.data, recipe.processor)
    ours, bare = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.pairs):
            bare.append(bare_tokens_per_second(text, recipe))
            run = hflab.train("char_lstm_shakespeare", OVERRIDES, output=Path(folder))
            ours.append(run.read_facts()["training"]["tokens_per_second"])
    ratios = [mine / theirs for mine, theirs in zip(ours, bare, strict=True)]
    print(f"bare loop  {statistics.median(bare):10,.0f} tokens/s")
    print(f"hflab      {statistics.median(ours):10,.0f} tokens/s")
    print(f"ratio      {statistics.median(ratios):10.3f}   (median of {len(ratios)} pairs, from {min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
