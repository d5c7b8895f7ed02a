"""What a figure is, and the figures of a language model: each a class with its name, unit and the direction that is better.

    figures = {name: metric.compute(totals) for name, metric in METRICS.items()}

A new figure is a class and a line in METRICS; those of other tasks are in `sequence_metrics.py` and `classification_metrics.py`. This module
knows sums only, nothing about models, tokenizers or data.

A document's end token is predicted and counted like any other: its nats are part of every figure, though it is no character.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, TypeVar

LARGEST_EXPONENT = math.log(1e308)  # e to a larger power is no float

Results = TypeVar("Results", contravariant=True)


@dataclass(frozen=True)
class TextTotals:
    """What a language model did on a text, summed."""

    nats: float  # negative log-likelihood of all predicted tokens
    num_tokens: int  # predicted tokens
    num_characters: int  # Unicode code points that the tokens spell
    num_bytes: int  # of the same text in UTF-8


class Metric(ABC, Generic[Results]):
    """A figure computed from what a model did, such as `TextTotals`."""

    name: ClassVar[str]
    unit: ClassVar[str]
    direction: ClassVar[Literal["lower", "higher"]]  # which is better

    @staticmethod
    @abstractmethod
    def compute(totals: Results) -> float:
        """Return the figure, in `unit`."""


class Loss(Metric[TextTotals]):
    """Mean negative log-likelihood of a token. Compares models with the same tokenizer only."""

    name = "loss"
    unit = "nats per token"
    direction = "lower"

    @staticmethod
    def compute(totals: TextTotals) -> float:
        """Return nats per token."""
        return totals.nats / totals.num_tokens


class Perplexity(Metric[TextTotals]):
    """e to the loss: among how many equally likely tokens the model is as unsure. Infinite when it exceeds a float."""

    name = "perplexity"
    unit = "tokens"
    direction = "lower"

    @staticmethod
    def compute(totals: TextTotals) -> float:
        """Return the perplexity per token, at least 1."""
        loss = Loss.compute(totals)
        return math.inf if loss > LARGEST_EXPONENT else math.exp(loss)


class NatsPerCharacter(Metric[TextTotals]):
    """Negative log-likelihood of the text per Unicode code point. Compares models across tokenizers."""

    name = "nats_per_character"
    unit = "nats per character"
    direction = "lower"

    @staticmethod
    def compute(totals: TextTotals) -> float:
        """Return nats per character, NaN for a text without characters."""
        return totals.nats / totals.num_characters if totals.num_characters else math.nan


class BitsPerCharacter(Metric[TextTotals]):
    """The same in bits, as Graves (2013, "Generating Sequences With Recurrent Neural Networks", section 3.1) reports it."""

    name = "bits_per_character"
    unit = "bits per character"
    direction = "lower"

    @staticmethod
    def compute(totals: TextTotals) -> float:
        """Return bits per character, NaN for a text without characters."""
        return NatsPerCharacter.compute(totals) / math.log(2)


class BitsPerByte(Metric[TextTotals]):
    """Bits per byte of UTF-8. Compares models across tokenizers and scripts; what a compressor would reach."""

    name = "bits_per_byte"
    unit = "bits per byte"
    direction = "lower"

    @staticmethod
    def compute(totals: TextTotals) -> float:
        """Return bits per UTF-8 byte, NaN for a text without bytes."""
        return totals.nats / math.log(2) / totals.num_bytes if totals.num_bytes else math.nan


METRICS: dict[str, type[Metric[TextTotals]]] = {metric.name: metric for metric in (Loss, Perplexity, NatsPerCharacter, BitsPerCharacter, BitsPerByte)}
