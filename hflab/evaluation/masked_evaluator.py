"""What a model that was pre-trained on masked tokens and pairs of segments makes of held-out text; each pair counts once, on any number of processes.

    totals, rows = evaluate_masked(model, batches, accelerator=accelerator)
    figures = {name: metric.compute(totals) for name, metric in MASKED_METRICS.items()}

What is masked and paired is drawn by the batches' own seed, so that an evaluation repeats. This module knows nothing about recipes or training.
Shapes: `B` rows, `T` tokens, `P` masked tokens of all rows, `V` vocabulary.
"""

from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.masked_batches import IGNORED_LABEL, MaskedBatch, MaskedBatches
from .masked_metrics import MaskedTotals
from .model_properties import evaluation_mode, takes
from .sharing import gather_rows, share_of_process


class MaskedRow(NamedTuple):
    """What a model made of one pair."""

    input_ids: list[int]  # as it was read, without padding
    expected: list[int]  # the masked tokens
    predicted: list[int]  # the likeliest in their places
    nats: float  # of the masked tokens
    pair_nats: float
    pair_is_right: bool


def evaluate_masked(
    model: nn.Module, batches: MaskedBatches, *, accelerator: Accelerator | None = None, max_tokens: int | None = None
) -> tuple[MaskedTotals, list[MaskedRow]]:
    """Read the first epoch of `batches`, and return the totals and the rows in their order.

    Args:
        model: with masked-token and next-sentence heads, on the device it is to run on; its mode and the random number generators stay.
        batches: of the held-out text, with pairs.
        accelerator: shares the rows out over its processes, all of which must call, and all of which get the results of all.
        max_tokens: count at most so many masked tokens: whole batches, one at least.
    """
    device = next(model.parameters()).device
    share, counts = share_of_process(batches.batch_size, accelerator)
    found: dict[int, MaskedRow] = {}
    counted = 0
    with evaluation_mode(model):
        for step in range(batches.steps_per_epoch):
            batch = batches.batch(step, share)
            counted += batch.num_tokens
            if step > 0 and max_tokens is not None and counted > max_tokens:
                break
            read = _read(model, batch.to(device))
            if counts:
                first = step * batches.batch_size + share.start
                found.update({first + place: row for place, row in enumerate(read) if row is not None})
    rows = gather_rows(found, accelerator)
    return _totals(rows), rows


def _read(model: nn.Module, batch: MaskedBatch) -> list[MaskedRow | None]:
    """The rows of a batch; None for one that only fills it up."""
    assert batch.next_sentence_label is not None, "pairs are asked for"
    chosen, relationship = masked_logits(model, batch)
    follows, is_masked = batch.next_sentence_label, batch.labels != IGNORED_LABEL
    pair_nats = F.cross_entropy(relationship, follows, ignore_index=IGNORED_LABEL, reduction="none")
    pair_is_right = relationship.argmax(-1) == follows
    nats = _by_row(F.cross_entropy(chosen, batch.labels[is_masked], reduction="none"), is_masked)
    predicted, expected = _by_row(chosen.argmax(-1), is_masked), _by_row(batch.labels[is_masked], is_masked)
    return [
        MaskedRow(
            input_ids=batch.input_ids[place][batch.attention_mask[place].bool()].tolist(),
            expected=expected[place].tolist(),
            predicted=predicted[place].tolist(),
            nats=nats[place].double().sum().item(),
            pair_nats=pair_nats[place].item(),
            pair_is_right=bool(pair_is_right[place]),
        )
        if follows[place] != IGNORED_LABEL
        else None
        for place in range(len(follows))
    ]


def masked_logits(model: nn.Module, batch: MaskedBatch) -> tuple[Tensor, Tensor]:
    """Logits of the masked tokens alone, (P, V) in reading order, and those of the pairs, (B, 2), both in float32.

    A model that can leave out the other tokens' logits does: for a small one they are a large part of the work.
    """
    inputs = {"input_ids": batch.input_ids, "token_type_ids": batch.token_type_ids, "attention_mask": batch.attention_mask}
    is_masked = batch.labels != IGNORED_LABEL
    if takes(model, "logits_to_keep"):
        outputs = model(**inputs, logits_to_keep=is_masked)
        chosen = outputs.prediction_logits
    else:
        outputs = model(**inputs)
        chosen = outputs.prediction_logits[is_masked]
    return chosen.float(), outputs.seq_relationship_logits.float()


def _by_row(values: Tensor, is_masked: Tensor) -> tuple[Tensor, ...]:
    """Cut the values of masked tokens (in reading order) into those of each row of `is_masked` (B, T)."""
    return torch.split(values, is_masked.sum(dim=1).tolist())


def _totals(rows: list[MaskedRow]) -> MaskedTotals:
    return MaskedTotals(
        nats=sum(row.nats for row in rows),
        num_right=sum(expected == predicted for row in rows for expected, predicted in zip(row.expected, row.predicted, strict=True)),
        num_tokens=sum(len(row.expected) for row in rows),
        pair_nats=sum(row.pair_nats for row in rows),
        num_right_pairs=sum(row.pair_is_right for row in rows),
        num_pairs=len(rows),
    )
