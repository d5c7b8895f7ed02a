"""The gradient of each token's loss with respect to each input embedding, ∂loss_t/∂input_k, of any model of transformers: exact, by autograd.

    norms = token_loss_gradients(model, input_ids, labels, targets=(31, 63))      # (B, N, T), a causal language model
    norms = text_loss_gradients(model, input_ids, labels)                         # (B, 1, T), a classifier of texts

The input is what the embedding layer gives for a token, before positions are added. Knows nothing about texts, files and pictures. Rows have no
padding: give rows of one length together.

B: rows, T: tokens, E: embedding size, N: targets, V: vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..errors import UserError
from ..evaluation.model_properties import evaluation_mode

ROUNDING = 1e-6  # of the largest gradient; more than this from a later token is no rounding


def token_loss_gradients(model: PreTrainedModel, input_ids: Tensor, labels: Tensor, targets: Sequence[int]) -> np.ndarray:
    """Norms ‖∂loss_t/∂input_k‖, in nats per unit of embedding, (B, N, T) by row, target t and token k; 0 for k > t.

    Args:
        model: a causal language model.
        input_ids: (B, T).
        labels: (B, T): the token after each.
        targets: numbers t of tokens, ascending, 0 to T - 1.

    Raises:
        UserError: the loss of a token depends on later ones: the model reads both ways.
    """
    with _leaf_embeddings(model) as leaves:
        logits = model(input_ids=input_ids, use_cache=False).logits
        losses = F.cross_entropy(logits[:, list(targets)].flatten(0, 1).double(), labels[:, list(targets)].flatten(), reduction="none")
        by_target = losses.unflatten(0, (len(input_ids), -1)).sum(0)  # rows know nothing of one another
        norms = torch.stack([_norms(loss, leaves) for loss in by_target], dim=1).cpu().numpy()
    later = np.arange(input_ids.shape[1]) > np.array(targets)[:, None]
    if (norms * later).max() > ROUNDING * norms.max():
        raise UserError(
            f"{type(model).__name__} reads both ways: the loss of a token depends on tokens after it, so its gradient has no distance back. "
            "Give a causal language model (of some models: config.is_decoder true), or a classifier of texts."
        )
    return np.where(later, 0.0, norms)


def text_loss_gradients(model: PreTrainedModel, input_ids: Tensor, labels: Tensor) -> np.ndarray:
    """Norms ‖∂loss/∂input_k‖ of a classifier's loss of each text, (B, 1, T); `labels` (B,) are the classes."""
    with _leaf_embeddings(model) as leaves:
        loss = F.cross_entropy(model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).logits.double(), labels, reduction="sum")
        return _norms(loss, leaves)[:, None].cpu().numpy()


def _norms(loss: Tensor, leaves: list[Tensor]) -> Tensor:
    """‖∂loss/∂input_k‖ (B, T)."""
    if len(leaves) != 1:
        raise UserError(f"The model read its embeddings {len(leaves)} times in one pass; only models that read them once can be measured.")
    gradient = torch.autograd.grad(loss, leaves[0], retain_graph=True)[0]
    return gradient.double().norm(dim=-1)


@contextmanager
def _leaf_embeddings(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """In evaluation mode, but with gradients with respect to the embeddings (B, T, E) that the model looks up, which are collected.

    Not by `inputs_embeds`, which some models scale or mix where they do not scale what they look up themselves.
    """
    leaves: list[Tensor] = []

    def make_leaf(module: torch.nn.Module, arguments: object, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    handle = model.get_input_embeddings().register_forward_hook(make_leaf)
    try:
        with evaluation_mode(model), torch.enable_grad():
            yield leaves
    finally:
        handle.remove()
