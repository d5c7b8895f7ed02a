"""Probe tasks that track the state of an automaton: parity, a ring, permutations, open brackets.

At each of the T symbols of a row the automaton's state is asked, as Liu et al. 2023, "Transformers Learn Shortcuts to Automata", arXiv:2210.10749,
section 2, simulate automata. What a task is stands in `probes.py`.

B rows, T `length`.
"""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .probes import Probe, ProbeBatch


class Automaton(Probe):
    """A task whose answer at each position is the state of an automaton that reads symbols drawn at random; it begins in state 0."""

    @property
    @abstractmethod
    def transitions(self) -> np.ndarray:
        """(states, symbols) int64: the state after reading the symbol."""

    @property
    @abstractmethod
    def probabilities(self) -> np.ndarray:
        """(states, symbols): how likely a symbol is drawn in a state; each row sums to 1."""

    @property
    def num_inputs(self) -> int:
        """Symbols."""
        return int(self.transitions.shape[1])

    @property
    def num_outputs(self) -> int:
        """States."""
        return int(self.transitions.shape[0])

    def batch(self, random: np.random.Generator, *, length: int, batch_size: int) -> ProbeBatch:
        """Inputs (B, T)."""
        thresholds = np.cumsum(self.probabilities, axis=1)[:, :-1]
        drawn = random.random((batch_size, length))
        inputs, targets = np.empty((2, batch_size, length), dtype=np.int64)
        state = np.zeros(batch_size, dtype=np.int64)
        for place in range(length):
            inputs[:, place] = (drawn[:, place, None] >= thresholds[state]).sum(axis=1)
            state = self.transitions[state, inputs[:, place]]
            targets[:, place] = state
        return ProbeBatch(inputs, targets, np.ones((batch_size, length), dtype=bool))

    def memoryless(self, length: int) -> float:
        """The likeliest state given the position and the symbol, by the chances of all states step by step; their mean over the positions."""
        chances = np.eye(self.num_outputs)[0]
        total = 0.0
        for _ in range(length):
            joint = np.zeros((self.num_outputs, self.num_inputs))  # of the next state and the symbol that led to it
            for symbol in range(self.num_inputs):
                np.add.at(joint[:, symbol], self.transitions[:, symbol], chances * self.probabilities[:, symbol])
            total += float(joint.max(axis=0).sum())
            chances = joint.sum(axis=1)
        return total / length


class GroupAutomaton(Automaton):
    """An automaton whose symbols are equally likely in every state."""

    @property
    def probabilities(self) -> np.ndarray:
        """The same for each symbol."""
        return np.full(self.transitions.shape, 1 / self.transitions.shape[1])


@dataclass(frozen=True)
class Parity(GroupAutomaton):
    """Whether the ones read so far are odd in number.

    Delétang et al. 2023, "Neural Networks and the Chomsky Hierarchy", arXiv:2207.02098, appendix A.1, "parity check", asked at every position.
    """

    summary = "whether the ones so far are odd in number, at each of T bits"

    @cached_property
    def transitions(self) -> np.ndarray:
        """Exclusive or."""
        return np.array([[0, 1], [1, 0]])


@dataclass(frozen=True)
class CycleNavigation(GroupAutomaton):
    """Where one stands on a ring of five places after steps back, none and ahead.

    Delétang et al. 2023, appendix A.1, "cycle navigation", asked at every position.
    """

    summary = "the place on a ring of five, at each of T moves"
    num_places: int = 5

    @cached_property
    def transitions(self) -> np.ndarray:
        """Symbols: stay, one ahead, one back."""
        return (np.arange(self.num_places)[:, None] + np.array([0, 1, -1])) % self.num_places


@dataclass(frozen=True)
class Permutations(GroupAutomaton):
    """In which order three things lie after each of T reorderings: the word problem of the group S3, the smallest where order matters.

    Word problems of larger groups: Merrill, Petty and Sabharwal 2024, "The Illusion of State in State-Space Models", arXiv:2404.08819, section 5.
    """

    summary = "the order of three things, at each of T reorderings"

    @cached_property
    def transitions(self) -> np.ndarray:
        """State and symbol are permutations, numbered in the order of their digits; 0 changes nothing."""
        orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
        return np.array([[orders.index((state[move[0]], state[move[1]], state[move[2]])) for move in orders] for state in orders])


@dataclass(frozen=True)
class BracketDepth(Automaton):
    """How many brackets are open, at each of T brackets that open or close with equal chance, up to eight deep.

    The depth of Dyck-(k, m), the bracket languages of bounded depth m, of Hewitt et al. 2020, "RNNs can generate bounded hierarchical languages with
    optimal memory", arXiv:2010.07515, section 2, here with k = 1. Where nothing is open a bracket opens, at depth m one closes.
    """

    summary = "how many brackets are open, at each of T"
    most_open: int = 8

    @cached_property
    def transitions(self) -> np.ndarray:
        """Symbols: open, close."""
        depths = np.arange(self.most_open + 1)
        return np.stack([np.minimum(depths + 1, self.most_open), np.maximum(depths - 1, 0)], axis=1)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Half and half, but at both ends."""
        chances = np.full((self.most_open + 1, 2), 0.5)
        chances[0], chances[-1] = (1, 0), (0, 1)
        return chances
