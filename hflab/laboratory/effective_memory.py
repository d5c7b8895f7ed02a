"""How much context a trained language model uses: what it costs to cut or to shuffle all but the last k tokens.

    found = measure_context_use(model, tokens, eos_token_id, ContextOptions(context=128))
    found.cut.tokens, found.cut.low, found.cut.high

Khandelwal, He, Qi and Jurafsky 2018, "Sharp Nearby, Fuzzy Far Away: How Neural Language Models Use Context", arXiv:1805.04623, sections 3 and 4: each
of N held-out tokens is predicted from the C tokens before it, from the last k of them alone, and from all C with those before the last k shuffled,
for k = 1, 2, 4 …. The effective memory is the smallest of these k from which on the mean loss is at most 1 % above that with all C.

A recurrent model begins each cut context with a zero state, a Transformer with position 0, and nothing tells that text is missing: a part of the cost
of short contexts may be that such beginnings were rare in training. The interval takes targets for independent, though contexts may overlap. Knows
nothing about files, data sources and tokenizers.

N targets, K context lengths.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..errors import UserError
from ..evaluation.model_properties import evaluation_mode, max_positions, takes

TOLERANCE = 0.01  # by which the loss may exceed that with the whole context
DEFAULT_CONTEXT = 256
NUM_RESAMPLES = 1000
CERTAINTY = 0.95
MOST_TOKENS_AT_A_TIME = 16_384
MOST_TOKENS_LOOKED_AT = 20_000_000  # of the text, from its beginning


@dataclass(frozen=True)
class ContextOptions:
    """What is measured."""

    context: int | None = None
    """C, tokens before each target, at least 2; None: 256, or as many as the model has positions for."""
    targets: int = 500
    """N, tokens predicted, at least 2; fewer where the text has fewer with so long a context."""
    seed: int = 0
    """Of the choice of targets, the shuffling and the intervals."""


@dataclass(frozen=True)
class ContextUse:
    """What it costs to take context away in one way."""

    losses: list[float]
    """Mean nats per token, by context length."""
    tokens: int
    """The effective memory."""
    low: int
    """Lower end of its 95 % interval, from drawing the targets anew."""
    high: int


@dataclass(frozen=True)
class EffectiveMemory:
    """What was measured."""

    context_lengths: list[int]
    """k in rising order; the last one is the whole context."""
    cut: ContextUse
    """Only the last k tokens are read."""
    shuffled: ContextUse
    """The tokens before the last k are in random order."""
    num_targets: int
    about: str = "The model"
    """Model and text, as reports call them."""

    @property
    def tokens(self) -> int:
        """The effective memory under cutting."""
        return self.cut.tokens

    @property
    def context(self) -> int:
        """C."""
        return self.context_lengths[-1]

    @property
    def loss(self) -> float:
        """Mean nats per token with the whole context."""
        return self.cut.losses[-1]


def measure_context_use(model: PreTrainedModel, tokens: np.ndarray, eos_token_id: int, options: ContextOptions) -> EffectiveMemory:
    """Measure how much context a causal language model uses.

    Args:
        model: on the device it is to run on; its mode stays as it was.
        tokens: (length of the text,) held-out token ids, documents closed by `eos_token_id`. Targets are drawn from those whose context lies in one
            document.
        eos_token_id: closes documents.
        options: what is measured.

    Raises:
        UserError: a number out of range, more context than the model has positions, or no document that is long enough.
    """
    context = _context(model, options)
    random = np.random.default_rng(options.seed)
    rows = _rows(tokens[:MOST_TOKENS_LOOKED_AT], eos_token_id, context, options, random)
    orders = random.random((len(rows), context))
    lengths = [2**power for power in range(context.bit_length()) if 2**power < context] + [context]
    with evaluation_mode(model):
        cut = np.stack([_nats(model, rows[:, context - k :]) for k in lengths], axis=1)
        shuffled = np.stack([_nats(model, _shuffled(rows, orders, k)) for k in lengths[:-1]] + [cut[:, -1]], axis=1)
    return EffectiveMemory(lengths, _use(cut, lengths, options.seed), _use(shuffled, lengths, options.seed), len(rows))


def effective_length(losses: np.ndarray, lengths: list[int]) -> int:
    """The smallest of `lengths` (K,) from which on `losses` (K,) are at most TOLERANCE above the last one."""
    enough = losses <= (1 + TOLERANCE) * losses[-1]
    failing = np.flatnonzero(~enough)
    return lengths[failing[-1] + 1 if len(failing) else 0]


def _context(model: nn.Module, options: ContextOptions) -> int:
    positions = max_positions(model)
    if options.context is None:
        return DEFAULT_CONTEXT if positions is None else min(DEFAULT_CONTEXT, positions)
    if options.context < 2:
        raise UserError(f"The context is {options.context}, but must be at least 2 tokens; give --context {DEFAULT_CONTEXT}.")
    if positions is not None and options.context > positions:
        raise UserError(f"The context is {options.context}, but the model has {positions} positions; give at most {positions}.")
    return options.context


def _rows(tokens: np.ndarray, eos_token_id: int, context: int, options: ContextOptions, random: np.random.Generator) -> np.ndarray:
    """Contexts and, behind each, its target, (N, C + 1) int64."""
    if options.targets < 2:
        raise UserError(f"The number of targets is {options.targets}, but must be at least 2; give --targets 500.")
    places = np.arange(len(tokens))
    # the last end of a document before each place, -1 before the first
    ends = np.concatenate([[-1], np.maximum.accumulate(np.where(tokens == eos_token_id, places, -1))[:-1]]) if len(tokens) else places
    candidates = places[places - ends > context]
    if not len(candidates):
        longest = int((places - ends).max(initial=1)) - 1
        raise UserError(
            f"The context is {context} tokens, but the longest document of the text has only {longest} before its last token; give a smaller "
            "--context, or other --data."
        )
    drawn = np.sort(random.choice(candidates, min(options.targets, len(candidates)), replace=False))
    rows: np.ndarray = tokens[drawn[:, None] + np.arange(-context, 1)].astype(np.int64)
    return rows


def _shuffled(rows: np.ndarray, orders: np.ndarray, k: int) -> np.ndarray:
    """`rows` (N, C + 1) with all tokens before the last k of the context in the order of the random numbers `orders` (N, C)."""
    far = orders.shape[1] - k
    mixed = np.take_along_axis(rows[:, :far], orders[:, :far].argsort(axis=1), axis=1)
    return np.concatenate([mixed, rows[:, far:]], axis=1)


def _nats(model: PreTrainedModel, rows: np.ndarray) -> np.ndarray:
    """Negative log-likelihood of the last token of each row (N, k + 1) given those before it, (N,) float64."""
    device = next(model.parameters()).device
    # a whole vocabulary of logits at each token would fill the memory
    last_alone = {"logits_to_keep": 1} if takes(model, "logits_to_keep") else {}
    at_a_time = max(1, MOST_TOKENS_AT_A_TIME // rows.shape[1])
    nats = []
    for start in range(0, len(rows), at_a_time):
        part = torch.from_numpy(rows[start : start + at_a_time]).to(device)
        logits = model(input_ids=part[:, :-1], use_cache=False, **last_alone).logits[:, -1]
        nats.append(F.cross_entropy(logits.float(), part[:, -1], reduction="none").cpu().double().numpy())
    return np.concatenate(nats)


def _use(nats: np.ndarray, lengths: list[int], seed: int) -> ContextUse:
    """Means of `nats` (N, K), and the effective memory with its interval (percentiles of the bootstrap, Efron 1979)."""
    random = np.random.default_rng([seed, 1])
    drawn = [effective_length(nats[random.integers(0, len(nats), len(nats))].mean(axis=0), lengths) for _ in range(NUM_RESAMPLES)]
    low, high = np.quantile(drawn, [(1 - CERTAINTY) / 2, (1 + CERTAINTY) / 2], method="inverted_cdf")
    means = nats.mean(axis=0)
    return ContextUse(means.tolist(), effective_length(means, lengths), int(low), int(high))
