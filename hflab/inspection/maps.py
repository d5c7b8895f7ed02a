"""What an inspection finds, as plain numbers with labels. Knows nothing about models, and nothing about pictures.

Shapes: `L` layers, `N` heads, `T` tokens that look, `S` tokens looked at.
"""

from dataclasses import dataclass

import numpy as np

SUM_TOLERANCE = 1e-3  # how far from 1 the weights of a row may sum, for rounding
SHORTENED = "…"


@dataclass(frozen=True)
class Token:
    """A token as a reader sees it. `kind` is "text", "special" (it stands for no text, such as [CLS] or <eos>) or "padding"."""

    label: str
    kind: str = "text"

    def shortened(self, length: int) -> str:
        """The label in at most `length` characters."""
        return self.label if len(self.label) <= length else self.label[: length - 1] + SHORTENED


@dataclass(frozen=True)
class AttentionMaps:
    """The attention of one kind in every layer and head."""

    name: str
    """What its files are called, such as "cross_attention"."""
    title: str
    weights: np.ndarray
    """(L, N, T, S) float32, each from 0 to 1: what the token of row t took from the token of column s."""
    rows: tuple[Token, ...]
    columns: tuple[Token, ...]
    row_role: str
    """What a row is, such as "token about to be written"."""
    column_role: str

    @property
    def hides_later(self) -> bool:
        """Whether no token looked at a later one, as in a model that reads from left to right."""
        T, S = self.weights.shape[-2:]
        return self.rows == self.columns and T == S > 1 and not np.triu(self.weights, 1).any()

    @property
    def rows_sum_to_one(self) -> bool:
        """Whether every row sums to 1; there are models with a place for looking at nothing."""
        return bool(np.abs(self.weights.sum(-1) - 1).max() < SUM_TOLERANCE)


@dataclass(frozen=True)
class StateTrace:
    """How a recurrent language model went through a text."""

    tokens: tuple[Token, ...]
    surprisal: np.ndarray
    """(T,) float64: bits, -log2 of the probability that the model gave each token before it read it; NaN for the first."""
    changes: dict[str, np.ndarray]
    """Of each part of the state, by name, (T,) float32: |s_t - s_{t-1}| / (|s_t| + |s_{t-1}|), from 0 (kept) to 1 (turned around, or new)."""

    @property
    def mean_surprisal(self) -> float:
        """Bits per predicted token; NaN if there is none."""
        known = self.surprisal[~np.isnan(self.surprisal)]
        return float(known.mean()) if len(known) else float("nan")


@dataclass(frozen=True)
class Target:
    """What the decoder of an encoder-decoder wrote. `was_given`: by the caller, not chosen by the model. `was_cut`: it had not come to an end."""

    text: str
    was_given: bool
    was_cut: bool


@dataclass(frozen=True)
class Reading:
    """What a model did with a text: attention maps, or the trace of a recurrent language model."""

    model_class: str
    text: str
    maps: tuple[AttentionMaps, ...] = ()
    trace: StateTrace | None = None
    target: Target | None = None
