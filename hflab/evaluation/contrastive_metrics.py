"""The figures of wav2vec 2.0's pre-training (Baevski et al. 2020, arXiv:2006.11477, section 3.2).

A new figure is a class and a line in CONTRASTIVE_METRICS. This module knows sums only, nothing about models, sound or data.

G: groups of codes, V: codes of a group.
"""

import math
from dataclasses import dataclass

import numpy as np

from .metrics import Metric


@dataclass(frozen=True)
class ContrastiveTotals:
    """What a model did on hidden frames, summed."""

    nats: float
    """Negative log-likelihood of the right code among it and the negatives."""
    num_right: int
    """Hidden frames whose own code was found."""
    num_frames: int
    """Hidden frames."""
    code_counts: np.ndarray
    """How many hidden frames have each code, (G, V)."""
    diversity_weight: float
    """Of the diversity loss in the loss."""


class ContrastiveLoss(Metric[ContrastiveTotals]):
    """Negative log-likelihood of a hidden frame's own code among it and those of other hidden frames; a codebook of one code makes it 0."""

    name = "contrastive_loss"
    unit = "nats per hidden frame"
    direction = "lower"

    @staticmethod
    def compute(totals: ContrastiveTotals) -> float:
        """Return nats per hidden frame, NaN where there is none."""
        return totals.nats / totals.num_frames if totals.num_frames else math.nan


class ContrastiveAccuracy(Metric[ContrastiveTotals]):
    """Share of hidden frames whose own code the model finds more likely than any other that stands beside it; with one code in all it is 0."""

    name = "contrastive_accuracy"
    unit = "share of hidden frames"
    direction = "higher"

    @staticmethod
    def compute(totals: ContrastiveTotals) -> float:
        """Return the share, 0 to 1, NaN where there is none."""
        return totals.num_right / totals.num_frames if totals.num_frames else math.nan


class CodevectorPerplexity(Metric[ContrastiveTotals]):
    """Among how many codes hidden frames choose, as if all were as frequent: e to the entropy of a group's codes, summed over the groups."""

    name = "codevector_perplexity"
    unit = "codes"
    direction = "higher"

    @staticmethod
    def compute(totals: ContrastiveTotals) -> float:
        """Return the perplexity, from G, one code in each group, to G * V; NaN where there is no frame."""
        if not totals.num_frames:
            return math.nan
        shares = totals.code_counts / totals.num_frames
        entropies = -np.sum(shares * np.log(np.where(shares > 0, shares, 1.0)), axis=1)
        return float(np.exp(entropies).sum())


class DiversityLoss(Metric[ContrastiveTotals]):
    """Share of the codes that are missing from the perplexity."""

    name = "diversity_loss"
    unit = "share of codes"
    direction = "lower"

    @staticmethod
    def compute(totals: ContrastiveTotals) -> float:
        """Return the share, 0 to 1."""
        return 1.0 - CodevectorPerplexity.compute(totals) / totals.code_counts.size


class ContrastiveTrainingLoss(Metric[ContrastiveTotals]):
    """The contrastive loss and the weighted diversity loss, the sum that training minimises."""

    name = "loss"
    unit = "nats per hidden frame"
    direction = "lower"

    @staticmethod
    def compute(totals: ContrastiveTotals) -> float:
        """Return the sum."""
        return ContrastiveLoss.compute(totals) + totals.diversity_weight * DiversityLoss.compute(totals)


CONTRASTIVE_METRICS: dict[str, type[Metric[ContrastiveTotals]]] = {
    metric.name: metric for metric in (ContrastiveTrainingLoss, ContrastiveLoss, ContrastiveAccuracy, DiversityLoss, CodevectorPerplexity)
}
