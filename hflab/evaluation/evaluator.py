"""Figures of a causal language model on held-out text: every token is predicted and counted once.

    figures = evaluate_language_model(model, prepared.splits["validation"], batch_size=32, sequence_length=128, eos_token_id=0)

The text is cut into `batch_size` contiguous lanes, whatever the number of processes; the processes share the lanes out, and their sums
meet in float64. So one process and many give the same figures, to the rounding of matrix products over fewer rows.

Two kinds of model:
- one that carries a recurrent state (its forward takes `state_resets`) reads each lane from its beginning to its end, so that a token is
  predicted from everything before it in its lane; with `reset_at_documents` the state is zero where it reads a document's first token;
- any other (GPT-2) reads overlapping windows of `sequence_length` tokens: each window predicts its second half, so that a token is
  predicted from at least half a window of text before it (but for the first window of a lane). Attention reaches over the end of a
  document inside a window; the end token is all that tells the model.

This module knows nothing about recipes, tokenizers or training. Shapes: `B` lanes of this process, `T` tokens of a window, `V` vocabulary.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache

from ..data.batches import LanguageModelLanes, TokenSplit
from ..errors import UserError
from .metrics import METRICS, TextTotals
from .model_properties import carries_state, evaluation_mode, max_positions

IGNORED = -100  # label of a position that is not predicted, as in transformers


def evaluate_language_model(
    model: nn.Module,
    split: TokenSplit,
    *,
    batch_size: int,
    sequence_length: int,
    eos_token_id: int,
    accelerator: Accelerator | None = None,
    max_tokens: int | None = None,
    reset_at_documents: bool = True,
) -> dict[str, float]:
    """Return the figures of METRICS with `num_tokens` and `num_characters` behind them.

    Args:
        model: causal language model, on the device it is to run on; its mode and the random number generators stay as they are.
        split: the held-out text.
        batch_size: lanes over all processes; fewer where a lane would be shorter than a window. Each lane begins with a zero state, so the
            figures depend on this number a little.
        sequence_length: tokens read at a time; for a model without recurrent state also the most it sees.
        eos_token_id: the token that closes a document, and that the first token of the split is predicted from.
        accelerator: shares the lanes out over its processes, all of which must call; None: this process reads them all.
        max_tokens: count at most so many tokens, taken from the beginning of every lane: whole steps, one at least. Characters and bytes
            are then those of the split times the share of tokens counted.
        reset_at_documents: each document begins with a zero state.

    Raises:
        UserError: the split is empty, a size is not positive, or the model has fewer positions than `sequence_length`.
    """
    _check_sizes(model, split, batch_size, sequence_length)
    stateful = carries_state(model)
    sequence_length = min(sequence_length, split.num_tokens)
    lanes = LanguageModelLanes(
        split.tokens,
        num_lanes=min(batch_size, split.num_tokens // sequence_length),
        sequence_length=sequence_length if stateful else (sequence_length + 1) // 2,
        eos_token_id=eos_token_id,
        reset_at_documents=reset_at_documents,
    )
    windows = _windows_of_process(lanes, accelerator, max_tokens, device=next(model.parameters()).device)
    with evaluation_mode(model):
        predictions = _read_carrying_state(model, windows) if stateful else _read_overlapping(model, windows, sequence_length // 2)
        steps = torch.stack([_sum_nats(logits, targets) for logits, targets in predictions])
    sums = steps.cpu().double().sum(0)
    if accelerator is not None and accelerator.num_processes > 1:
        sums = accelerator.reduce(sums.to(accelerator.device), reduction="sum")
    nats, num_tokens = sums.tolist()
    return _figures(split, nats, int(num_tokens))


def _check_sizes(model: nn.Module, split: TokenSplit, batch_size: int, sequence_length: int) -> None:
    if not split.num_tokens:
        raise UserError("The split holds no text, so there is nothing to evaluate; give another split or more data.")
    for name, value in {"batch_size": batch_size, "sequence_length": sequence_length}.items():
        if value < 1:
            raise UserError(f"{name} is {value}; it must be at least 1.")
    positions = max_positions(model)
    if positions is not None and sequence_length > positions:
        raise UserError(f"sequence_length is {sequence_length}, and the model has {positions} positions; give at most {positions}.")


class _Window(NamedTuple):
    input_ids: Tensor  # (B, T) int64
    targets: Tensor  # (B, T) int64, IGNORED where nothing is predicted
    state_resets: Tensor | None  # (B, T) bool


def _windows_of_process(
    lanes: LanguageModelLanes, accelerator: Accelerator | None, max_tokens: int | None, device: torch.device
) -> Iterator[_Window]:
    """One pass over this process's share of the lanes.

    Where there are more processes than lanes, one without a lane reads along with the first and counts nothing: a model that is spread
    over the processes (FSDP) needs them all in every forward.
    """
    index, num_processes = (accelerator.process_index, accelerator.num_processes) if accelerator is not None else (0, 1)
    share = slice(lanes.num_lanes * index // num_processes, lanes.num_lanes * (index + 1) // num_processes)
    counts = share.start < share.stop
    counted = 0
    for step in range(lanes.steps_per_epoch):
        batch = lanes.batch(step, share if counts else slice(0, 1))
        counted += batch.num_tokens
        if step > 0 and max_tokens is not None and counted > max_tokens:
            return
        targets = batch.shift_labels if counts else torch.full_like(batch.shift_labels, IGNORED)
        resets = None if batch.state_resets is None else batch.state_resets.to(device)
        yield _Window(batch.input_ids.to(device), targets.to(device), resets)


def _read_carrying_state(model: nn.Module, windows: Iterator[_Window]) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (B, T, V) and targets (B, T) of each window, the state handed on from one to the next."""
    state: Cache | None = None
    for input_ids, targets, resets in windows:
        output = model(input_ids=input_ids, past_key_values=state, state_resets=resets, use_cache=True)
        state = output.past_key_values
        yield output.logits, targets


def _read_overlapping(model: nn.Module, windows: Iterator[_Window], overlap: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (B, T, V) and targets (B, T) of each window, read behind the last `overlap` tokens of the one before it."""
    context: Tensor | None = None
    for input_ids, targets, _ in windows:
        read = input_ids if context is None else torch.cat([context, input_ids], dim=1)
        logits = model(input_ids=read, use_cache=False).logits
        context = read[:, read.shape[1] - overlap :]
        yield logits[:, -input_ids.shape[1] :], targets


def _sum_nats(logits: Tensor, targets: Tensor) -> Tensor:
    """[negative log-likelihood, number of targets] of a window; (2,) float32."""
    nats = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return torch.stack([nats, (targets != IGNORED).sum().float()])


def _figures(split: TokenSplit, nats: float, num_tokens: int) -> dict[str, float]:
    share = num_tokens / split.num_tokens  # exactly 1 when all tokens are counted
    totals = TextTotals(nats, num_tokens, round(split.num_characters * share), round(split.num_bytes * share))
    figures = {name: metric.compute(totals) for name, metric in METRICS.items()}
    return {**figures, "num_tokens": num_tokens, "num_characters": totals.num_characters}
