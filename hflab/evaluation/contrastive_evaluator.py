"""What a wav2vec 2.0 in pre-training makes of held-out clips; each counts once, on any number of processes and in any batch.

    totals, rows = evaluate_contrastive(model, batches, accelerator=accelerator)
    figures = {name: metric.compute(totals) for name, metric in CONTRASTIVE_METRICS.items()}

Codes are the likeliest, not drawn, and what is hidden is the batches' own draw of the first epoch, so an evaluation repeats. Knows nothing about
recipes and training. Shapes: `B` clips, `T'` frames, `M` hidden frames of all clips, `K` negatives, `D` of projections, `G` groups of `V` codes.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.contrastive_batches import ContrastiveBatch, ContrastiveBatches
from .contrastive_metrics import ContrastiveTotals
from .model_properties import evaluation_mode, innermost
from .sharing import gather_rows, share_of_process


class ContrastiveRow(NamedTuple):
    """What a model made of a clip."""

    nats: float
    """Of all hidden frames."""
    num_right: int
    num_hidden: int
    code_counts: np.ndarray
    """(G, V), over the hidden frames."""


def evaluate_contrastive(
    model: nn.Module, batches: ContrastiveBatches, *, accelerator: Accelerator | None = None
) -> tuple[ContrastiveTotals, list[ContrastiveRow]]:
    """Read all clips of `batches` once; return the totals, and the clips in their order.

    Args:
        model: with the head for pre-training, on the device it is to run on; its mode and the random number generators stay as they are.
        batches: unshuffled, of the held-out clips; of one clip for each process, where padding changes what the model makes of a clip.
        accelerator: shares the clips out over its processes, all of which must call, and all of which get the results of all.
    """
    device = next(model.parameters()).device
    share, counts = share_of_process(batches.batch_size, accelerator)
    found: dict[int, ContrastiveRow] = {}
    with evaluation_mode(model):
        for step in range(batches.steps_per_epoch):
            batch = batches.batch(step, share)
            read = _read(model, batch.to(device))
            found |= {int(row): made for row, made in zip(batch.rows, read, strict=True) if counts and row >= 0}
    rows = gather_rows(found, accelerator)
    totals = ContrastiveTotals(
        nats=float(np.sum([row.nats for row in rows])),
        num_right=sum(row.num_right for row in rows),
        num_frames=sum(row.num_hidden for row in rows),
        code_counts=np.sum([row.code_counts for row in rows], axis=0),
        diversity_weight=float(innermost(model).config.diversity_loss_weight),
    )
    return totals, rows


def _read(model: nn.Module, batch: ContrastiveBatch) -> list[ContrastiveRow]:
    bare: Any = innermost(model)
    groups, size = bare.config.num_codevector_groups, bare.config.num_codevectors_per_group
    scores: list[Tensor] = []  # of the codes, which the model's output does not hold
    handle = bare.quantizer.weight_proj.register_forward_hook(lambda module, given, made: scores.append(made))
    try:
        outputs = model(**batch.inputs, mask_time_indices=batch.is_hidden)
    finally:
        handle.remove()
    codes = F.one_hot(scores[0].reshape(*batch.is_hidden.shape, groups, size).argmax(dim=-1), size)  # (B, T', G, V)
    logits = contrastive_logits(outputs.projected_states, outputs.projected_quantized_states, batch, bare.config.contrastive_logits_temperature)
    nats = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device), reduction="none").double()
    others = logits[:, 1:].amax(dim=1)
    is_right = (logits[:, 0] > others) & (others > -torch.inf)
    counts = batch.is_hidden.sum(dim=1).tolist()
    per_clip = zip(nats.split(counts), is_right.split(counts), counts, (codes * batch.is_hidden[:, :, None, None]).sum(dim=1).cpu(), strict=True)
    return [ContrastiveRow(of_clip.sum().item(), int(right.sum()), count, used.numpy()) for of_clip, right, count, used in per_clip]


def contrastive_logits(states: Tensor, quantized: Tensor, batch: ContrastiveBatch, temperature: float) -> Tensor:
    """How like each hidden frame's state is to its own code, first, and to those of its negatives; (M, 1 + K) float32 in reading order.

    Equation 3 of the paper: cosines divided by `temperature`. A negative of the same code as the frame's own is no alternative: -inf.

    Args:
        states: what the model expects at each frame, (B, T', D).
        quantized: the codes of what was there, projected, (B, T', D).
        batch: says what is hidden, and names the negatives.
        temperature: above 0.
    """
    own = quantized[batch.is_hidden].float()
    others = quantized.flatten(0, 1)[batch.negatives[batch.is_hidden]].float()
    candidates = torch.cat([own[:, None], others], dim=1)
    logits = F.cosine_similarity(states[batch.is_hidden].float()[:, None], candidates, dim=-1) / temperature
    same = (others == own[:, None]).all(dim=-1)
    return torch.cat([logits[:, :1], logits[:, 1:].masked_fill(same, -torch.inf)], dim=1)
