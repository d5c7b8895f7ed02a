"""The figures of masked language modelling with next-sentence prediction (Devlin et al., 2019, section 3.1).

A new figure is a class and a line in MASKED_METRICS. This module knows sums only, nothing about models, tokenizers or data.
"""

import math
from dataclasses import dataclass

from .metrics import Metric


@dataclass(frozen=True)
class MaskedTotals:
    """What a model did on masked tokens and pairs of segments, summed."""

    nats: float  # negative log-likelihood of all masked tokens
    num_right: int  # masked tokens whose likeliest token is the right one
    num_tokens: int  # masked tokens
    pair_nats: float  # negative log-likelihood of "follows" or "does not follow"
    num_right_pairs: int
    num_pairs: int


class MaskedLoss(Metric[MaskedTotals]):
    """Mean negative log-likelihood of a masked token. Compares models with the same tokenizer and share of masked tokens only."""

    name = "masked_lm_loss"
    unit = "nats per masked token"
    direction = "lower"

    @staticmethod
    def compute(totals: MaskedTotals) -> float:
        """Return nats per masked token, NaN where there is none."""
        return totals.nats / totals.num_tokens if totals.num_tokens else math.nan


class MaskedAccuracy(Metric[MaskedTotals]):
    """Share of masked tokens whose likeliest token is the right one."""

    name = "masked_lm_accuracy"
    unit = "share of masked tokens"
    direction = "higher"

    @staticmethod
    def compute(totals: MaskedTotals) -> float:
        """Return the share, 0 to 1, NaN where there is none."""
        return totals.num_right / totals.num_tokens if totals.num_tokens else math.nan


class NextSentenceLoss(Metric[MaskedTotals]):
    """Mean negative log-likelihood of whether the second segment follows the first; 0.693 by guessing."""

    name = "next_sentence_loss"
    unit = "nats per pair"
    direction = "lower"

    @staticmethod
    def compute(totals: MaskedTotals) -> float:
        """Return nats per pair, NaN where there is none."""
        return totals.pair_nats / totals.num_pairs if totals.num_pairs else math.nan


class NextSentenceAccuracy(Metric[MaskedTotals]):
    """Share of pairs of which it was found whether the second segment follows the first; a half by guessing."""

    name = "next_sentence_accuracy"
    unit = "share of pairs"
    direction = "higher"

    @staticmethod
    def compute(totals: MaskedTotals) -> float:
        """Return the share, 0 to 1, NaN where there is none."""
        return totals.num_right_pairs / totals.num_pairs if totals.num_pairs else math.nan


class PreTrainingLoss(Metric[MaskedTotals]):
    """The sum of both losses, which training minimises."""

    name = "loss"
    unit = "nats per masked token and per pair"
    direction = "lower"

    @staticmethod
    def compute(totals: MaskedTotals) -> float:
        """Return the sum."""
        return MaskedLoss.compute(totals) + NextSentenceLoss.compute(totals)


MASKED_METRICS: dict[str, type[Metric[MaskedTotals]]] = {
    metric.name: metric for metric in (PreTrainingLoss, MaskedLoss, MaskedAccuracy, NextSentenceLoss, NextSentenceAccuracy)
}
