"""Probe tasks: rows made on the spot that only a model with memory answers, each by its source's own protocol.

    batch = Copying().batch(np.random.default_rng(0), length=50, batch_size=32)
    batch.inputs, batch.targets, batch.scored

A task is a class with `batch` and `memoryless` and a line in PROBES (`probe_tasks.py`); automata are in `automata.py`. Knows nothing about models.

Shapes: B rows, T `length`, which makes a task harder, L tokens of a row (L >= T), F numbers of a token.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np

IGNORED = -100  # target of a position where nothing is learnt, as in transformers
SOLVED_ACCURACY = 0.99
SOLVED_SQUARED_ERROR = 0.01


class ProbeBatch(NamedTuple):
    """Rows of a task."""

    inputs: np.ndarray
    """(B, L) int64 tokens, or (B, L, F) float32 numbers."""
    targets: np.ndarray
    """(B, L) int64, IGNORED where nothing is learnt; float32 where numbers are answered."""
    scored: np.ndarray
    """(B, L) bool: the positions that the figure counts. Each has a target; not each target is counted."""


class Probe(ABC):
    """A task. Every figure is of the scored positions."""

    figure: ClassVar[Literal["accuracy", "squared error"]] = "accuracy"
    """Accuracy from 0 to 1, higher is better; squared error, a mean from 0, lower is better."""
    num_features: ClassVar[int | None] = None
    """F, where the inputs are numbers."""
    summary: ClassVar[str]
    """What has to be remembered, in a few words."""

    @property
    @abstractmethod
    def num_inputs(self) -> int:
        """Kinds of tokens that are read; 0 where numbers are."""

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Kinds of answers; 1 where numbers are answered."""

    @abstractmethod
    def batch(self, random: np.random.Generator, *, length: int, batch_size: int) -> ProbeBatch:
        """`batch_size` rows of size `length`, at least `shortest`."""

    @abstractmethod
    def memoryless(self, length: int) -> float:
        """The best expected figure of answers that depend on nothing but the position and the token at hand."""

    @property
    def shortest(self) -> int:
        """The least `length`."""
        return 1

    @property
    def solved_at(self) -> float:
        """The figure from which on a row counts as solved."""
        return SOLVED_ACCURACY if self.figure == "accuracy" else SOLVED_SQUARED_ERROR

    @property
    def perfect(self) -> float:
        """The figure of a model without errors."""
        return 1.0 if self.figure == "accuracy" else 0.0

    def is_solved(self, figure: float) -> bool:
        """Whether a figure is at least as good as `solved_at`."""
        return figure >= self.solved_at if self.figure == "accuracy" else figure <= self.solved_at

    def ends_training(self, figure: float) -> bool:
        """Whether the error is at most half of that of `solved_at`: so what ended by chance on some rows counts as solved on others too."""
        return abs(figure - self.perfect) <= abs(self.solved_at - self.perfect) / 2


@dataclass(frozen=True)
class Adding(Probe):
    """The sum of the two marked numbers of a row, answered at its end.

    Hochreiter and Schmidhuber 1997, "Long Short-Term Memory", section 5.4, in the form of Le, Jaitly and Hinton 2015, arXiv:1504.00941,
    section 4.1: T numbers from [0, 1] beside T marks, of which two are 1 and the others 0. Always answering 1 gives a squared error of 1/6. That
    the task counts as solved from 0.01 on is hflab's rule: the sources draw curves.
    """

    figure = "squared error"
    num_features = 2
    summary = "two marked numbers among T, to be added"
    num_inputs: int = 0
    num_outputs: int = 1

    @property
    def shortest(self) -> int:
        """Two marks need two places."""
        return 2

    def batch(self, random: np.random.Generator, *, length: int, batch_size: int) -> ProbeBatch:
        """Inputs (B, T, 2): the number and its mark."""
        numbers = random.random((batch_size, length), dtype=np.float32)
        marks = np.zeros_like(numbers)
        np.put_along_axis(marks, _places(random, batch_size, length, 2), 1.0, axis=1)
        targets = np.zeros_like(numbers)
        targets[:, -1] = (numbers * marks).sum(axis=1)
        return ProbeBatch(np.stack([numbers, marks], axis=-1), targets, _last(batch_size, length, 1))

    def memoryless(self, length: int) -> float:
        """Variance of a sum of two uniform numbers, 1/6; of one, 1/12, where the last number is marked, which 2 of `length` rows have."""
        return 1 / 6 - (2 / length) / 12


@dataclass(frozen=True)
class Copying(Probe):
    """The first symbols of a row, to be written down in their order after a wait.

    Arjovsky, Shah and Bengio 2016, "Unitary Evolution Recurrent Neural Networks", arXiv:1511.06464, the experiment "copying memory problem": ten
    symbols out of eight kinds, T - 1 blanks, a delimiter and ten blanks; the answer is T + 10 blanks and the ten symbols. The loss is over all
    positions, as there; the figure counts the last ten. A strategy without memory has the cross-entropy 10 ln 8 / (T + 20).
    """

    summary = "the first symbols of a row, over a wait of T"
    num_items: int = 10
    num_kinds: int = 8

    @property
    def num_inputs(self) -> int:
        """Symbols, the blank and the delimiter."""
        return self.num_kinds + 2

    @property
    def num_outputs(self) -> int:
        """Symbols and the blank."""
        return self.num_kinds + 1

    def batch(self, random: np.random.Generator, *, length: int, batch_size: int) -> ProbeBatch:
        """Inputs (B, T + 2 * items)."""
        items, blank = self.num_items, self.num_kinds
        symbols = random.integers(0, self.num_kinds, (batch_size, items))
        inputs = np.full((batch_size, length + 2 * items), blank, dtype=np.int64)
        inputs[:, :items] = symbols
        inputs[:, items + length - 1] = blank + 1
        targets = np.full_like(inputs, blank)
        targets[:, -items:] = symbols
        return ProbeBatch(inputs, targets, _last(batch_size, inputs.shape[1], items))

    def memoryless(self, length: int) -> float:
        """The share of one kind."""
        return 1 / self.num_kinds


@dataclass(frozen=True)
class DelayedRecall(Probe):
    """Which of two symbols stood at the beginning of a row, asked after T distractors.

    Hochreiter and Schmidhuber 1997, section 5.2, task 2c: the symbol b, then x or y, then distractors drawn at random, then e, after which x or y
    is the answer. Unlike there the delay is not random but T, so that a model can be tested at delays that it has never seen.
    """

    summary = "one of two symbols, over T distractors"
    num_distractors: int = 8
    num_outputs: int = 2

    @property
    def num_inputs(self) -> int:
        """Both symbols, b, e and the distractors."""
        return 4 + self.num_distractors

    def batch(self, random: np.random.Generator, *, length: int, batch_size: int) -> ProbeBatch:
        """Inputs (B, T + 3)."""
        begin, end, first_distractor = 2, 3, 4
        inputs = random.integers(first_distractor, self.num_inputs, (batch_size, length + 3))
        symbols = random.integers(0, 2, batch_size)
        inputs[:, 0], inputs[:, 1], inputs[:, -1] = begin, symbols, end
        targets = np.full_like(inputs, IGNORED)
        targets[:, -1] = symbols
        return ProbeBatch(inputs, targets, _last(batch_size, inputs.shape[1], 1))

    def memoryless(self, length: int) -> float:
        """One of two."""
        return 0.5


@dataclass(frozen=True)
class AssociativeRecall(Probe):
    """The digit that stood behind a letter.

    Ba et al. 2016, "Using Fast Weights to Attend to the Recent Past", arXiv:1610.06258, section 4.1: pairs of a letter and a digit, no letter
    twice, then question marks and one of the letters, as in c9k8j3f1??c, whose answer is 9. There are two question marks there and T here. An
    earlier form is that of Graves, Wayne and Danihelka 2014, "Neural Turing Machines", arXiv:1410.5401, section 4.3.
    """

    summary = "which digit belongs to which letter, over a wait of T"
    num_items: int = 4
    num_letters: int = 26
    num_outputs: int = 10

    @property
    def num_inputs(self) -> int:
        """Digits, the question mark and letters."""
        return self.num_outputs + 1 + self.num_letters

    def batch(self, random: np.random.Generator, *, length: int, batch_size: int) -> ProbeBatch:
        """Inputs (B, 2 * items + T + 1)."""
        items, question, rows = self.num_items, self.num_outputs, np.arange(batch_size)
        letters = _places(random, batch_size, self.num_letters, items)
        letters = random.permuted(letters, axis=1)
        digits = random.integers(0, self.num_outputs, (batch_size, items))
        asked = random.integers(0, items, batch_size)
        inputs = np.full((batch_size, 2 * items + length + 1), question, dtype=np.int64)
        inputs[:, 0 : 2 * items : 2] = letters + question + 1
        inputs[:, 1 : 2 * items : 2] = digits
        inputs[:, -1] = letters[rows, asked] + question + 1
        targets = np.full_like(inputs, IGNORED)
        targets[:, -1] = digits[rows, asked]
        return ProbeBatch(inputs, targets, _last(batch_size, inputs.shape[1], 1))

    def memoryless(self, length: int) -> float:
        """One digit of ten."""
        return 1 / self.num_outputs


@dataclass(frozen=True)
class SelectiveCopying(Probe):
    """Symbols that are scattered among blanks, to be written down in their order.

    Gu and Dao 2023, "Mamba", arXiv:2312.00752, section 4.1.1, as the code of their group makes it: 16 symbols out of 14 kinds at random places among
    T blanks, then 16 markers, at which the symbols are answered.
    """

    summary = "symbols scattered among T blanks"
    num_items: int = 16
    num_kinds: int = 14

    @property
    def num_inputs(self) -> int:
        """Symbols, the blank and the marker."""
        return self.num_kinds + 2

    @property
    def num_outputs(self) -> int:
        """Symbols."""
        return self.num_kinds

    def batch(self, random: np.random.Generator, *, length: int, batch_size: int) -> ProbeBatch:
        """Inputs (B, T + 2 * items)."""
        items, blank, marker = self.num_items, self.num_kinds, self.num_kinds + 1
        symbols = random.integers(0, self.num_kinds, (batch_size, items))
        inputs = np.full((batch_size, length + 2 * items), blank, dtype=np.int64)
        np.put_along_axis(inputs, _places(random, batch_size, length + items, items), symbols, axis=1)
        inputs[:, -items:] = marker
        targets = np.full_like(inputs, IGNORED)
        targets[:, -items:] = symbols
        return ProbeBatch(inputs, targets, _last(batch_size, inputs.shape[1], items))

    def memoryless(self, length: int) -> float:
        """The share of one kind."""
        return 1 / self.num_kinds


def _places(random: np.random.Generator, num_rows: int, num_places: int, count: int) -> np.ndarray:
    """`count` different places of `num_places` in each row, in rising order, every choice equally likely; (num_rows, count)."""
    drawn = np.argpartition(random.random((num_rows, num_places)), count - 1, axis=1)[:, :count]
    return np.sort(drawn, axis=1)


def _last(num_rows: int, num_tokens: int, count: int) -> np.ndarray:
    """(num_rows, num_tokens) bool, True at the last `count` tokens."""
    scored = np.zeros((num_rows, num_tokens), dtype=bool)
    scored[:, -count:] = True
    return scored
