"""Speed of MiniTransformerForCausalLM beside nanoGPT's model and transformers' GPT-2, as medians of paired alternating runs.

    python scripts/benchmark_transformer.py --nanogpt PATH_TO_A_CLONE_OF_karpathy/nanoGPT
    python scripts/benchmark_transformer.py --repeats 5 --device cuda           # beside GPT-2 only

Each line pairs ours with one contender of the same shape (layers, heads, width, activation, biases, tied embeddings, no dropout): ours, theirs,
ours, theirs, ... The ratio is the median over the pairs of theirs / ours in time, so that above 1 ours is faster. Two kinds of run:

    step        forward and backward pass over one batch, gradients set to None before it; tokens/s count the batch's tokens
    generation  `generate` with a cache, greedily, one row; tokens/s count the new tokens. nanoGPT has no cache and is left out
"""

import argparse
import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from hflab.models.mini_transformer import MiniTransformerConfig, MiniTransformerForCausalLM

# The shape of nanoGPT's recipe for a CPU, with the 84 characters of Shakespeare's plays.
BATCH_SIZE, BLOCK_SIZE, VOCAB_SIZE = 12, 64, 84
NUM_LAYERS, NUM_HEADS, HIDDEN_SIZE = 4, 4, 128
PROMPT_LENGTH = 16


@dataclass(frozen=True)
class Pairing:
    """Ours and theirs, doing the same work of `num_tokens` tokens a run."""

    name: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    num_tokens: int


def main() -> None:
    """Measure and print a Markdown table."""
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"{describe_machine(arguments.device)}\n")
    print("| run | beside | ratio (quartiles) | ours ms | theirs ms | ours tokens/s | theirs tokens/s |")
    print("|---|---|---|---|---|---|---|")
    for pairing in pairings(arguments):
        print(table_line(pairing, timed_pairs(pairing, arguments.repeats, arguments.device)), flush=True)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, help="a clone of karpathy/nanoGPT, whose model.py is imported")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeats", type=int, default=15, help="number of pairs per line")
    parser.add_argument("--new-tokens", type=int, default=112, help="tokens that a run of generation adds to the prompt")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice by default")
    return parser.parse_args()


def pairings(arguments: argparse.Namespace) -> list[Pairing]:
    """Every line of the table."""
    num_positions = max(BLOCK_SIZE, PROMPT_LENGTH + arguments.new_tokens)
    ids = torch.randint(VOCAB_SIZE, (BATCH_SIZE, BLOCK_SIZE), device=arguments.device)
    targets = torch.randint(VOCAB_SIZE, (BATCH_SIZE, BLOCK_SIZE), device=arguments.device)
    ours = our_model(num_positions, hidden_act="gelu_new", has_biases=True).to(arguments.device)
    gpt2 = their_gpt2(num_positions).to(arguments.device)
    lines = []
    if arguments.nanogpt is not None:
        like_nanogpt = our_model(BLOCK_SIZE, hidden_act="gelu", has_biases=False).to(arguments.device)
        nanogpt = their_nanogpt(arguments.nanogpt).to(arguments.device)
        theirs = training_step(nanogpt, lambda: nanogpt(ids, targets)[1])
        lines.append(Pairing("step | nanoGPT", our_step(like_nanogpt, ids, targets), theirs, ids.numel()))
    theirs = training_step(gpt2, lambda: gpt2(input_ids=ids, labels=targets, shift_labels=targets, use_cache=False).loss)
    lines.append(Pairing("step | GPT-2", our_step(ours, ids, targets), theirs, ids.numel()))
    our_text, their_text = (generation(model, ids[:1, :PROMPT_LENGTH], arguments.new_tokens) for model in (ours, gpt2))
    lines.append(Pairing("generation | GPT-2", our_text, their_text, arguments.new_tokens))
    return lines


def our_model(num_positions: int, *, hidden_act: str, has_biases: bool) -> MiniTransformerForCausalLM:
    """A pre-norm decoder with learned positions and tied embeddings, without dropout."""
    config = MiniTransformerConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=HIDDEN_SIZE,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=NUM_HEADS,
        max_position_embeddings=num_positions,
        hidden_act=hidden_act,
        norm_position="pre",
        position_embedding_type="learned",
        scale_embedding=False,
        attention_bias=has_biases,
        mlp_bias=has_biases,
        embedding_dropout=0.0,
        hidden_dropout=0.0,
    )
    return MiniTransformerForCausalLM(config)


def their_gpt2(num_positions: int) -> GPT2LMHeadModel:
    """GPT-2 of transformers, of the same shape, without dropout."""
    config = GPT2Config(
        vocab_size=VOCAB_SIZE,
        n_embd=HIDDEN_SIZE,
        n_layer=NUM_LAYERS,
        n_head=NUM_HEADS,
        n_positions=num_positions,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    return GPT2LMHeadModel(config)


def their_nanogpt(clone: Path) -> Any:
    """The model of nanoGPT, of the same shape, without dropout and, as its recipe has it, without biases."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", clone / "model.py")
    if spec is None or spec.loader is None or not (clone / "model.py").is_file():
        raise SystemExit(f"--nanogpt is {clone}, where there is no model.py; give a clone of https://github.com/karpathy/nanoGPT.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sizes = {"vocab_size": VOCAB_SIZE, "n_layer": NUM_LAYERS, "n_head": NUM_HEADS, "n_embd": HIDDEN_SIZE}
    return module.GPT(module.GPTConfig(block_size=BLOCK_SIZE, dropout=0.0, bias=False, **sizes))


def our_step(model: MiniTransformerForCausalLM, ids: Tensor, targets: Tensor) -> Callable[[], None]:
    """Forward and backward pass of ours over tokens (B, T) and the tokens that follow each, (B, T)."""
    return training_step(model, lambda: model(input_ids=ids, labels=targets, shift_labels=targets).loss)


def training_step(model: Any, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Forward and backward pass, with fresh gradients, in training mode, whatever ran before."""

    def run() -> None:
        model.train()
        model.zero_grad(set_to_none=True)
        loss().backward()

    return run


def generation(model: Any, prompt: Tensor, num_tokens: int) -> Callable[[], None]:
    """Exactly `num_tokens` tokens after `prompt` (1, T), the likeliest one each time."""
    length = prompt.shape[1] + num_tokens

    def run() -> None:
        model.eval()
        tokens = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=num_tokens, do_sample=False)
        assert tokens.shape[1] == length, "no token ends a text in these models"

    return run


def timed_pairs(pairing: Pairing, repeats: int, device: str) -> list[tuple[float, float]]:
    """Seconds of ours and theirs, run alternately after one run of each to warm up."""
    seconds = [(timed(pairing.ours, device), timed(pairing.theirs, device)) for _ in range(repeats + 1)]
    return seconds[1:]


def timed(run: Callable[[], object], device: str) -> float:
    """Seconds of one run, the device's work included."""
    started = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def table_line(pairing: Pairing, pairs: list[tuple[float, float]]) -> str:
    """The seconds of ours and theirs as a line of the Markdown table."""
    low, ratio, high = statistics.quantiles([theirs / ours for ours, theirs in pairs], n=4)
    ours, theirs = (statistics.median(seconds) for seconds in zip(*pairs, strict=True))
    speeds = f"{pairing.num_tokens / ours:,.0f} | {pairing.num_tokens / theirs:,.0f}"
    return f"| {pairing.name} | {ratio:.2f} ({low:.2f} to {high:.2f}) | {ours * 1e3:.1f} | {theirs * 1e3:.1f} | {speeds} |"


def describe_machine(device: str) -> str:
    """Versions, processor, threads and load, without which a time means nothing."""
    processor = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"
    return f"torch {torch.__version__}, {processor}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
