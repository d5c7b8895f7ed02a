"""What the beginning of a text is worth beside the sound: by a language model, by expected words, and by which words there are.

    scores = PrefixScores(alphabet, words=WordScores(model), hot_words=None, lexicon=Lexicon({"hello", "world"}))
    gains = scores.gains([scores.start], np.array([3, 7]))

This module knows nothing about frames, beams or the probabilities of an acoustic model.

V: tokens, K: prefixes, C: tokens that may follow.
"""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from .ctc_decoding import CtcAlphabet
from .hot_words import HotWords
from .language_model import LanguageModel, State


class WordGain(NamedTuple):
    """What a word adds to a text."""

    gain: float
    """Natural logarithm."""
    state: State
    """Of the language model, after the word."""


class WordScores:
    """What a language model gives for a word, remembered: a search asks for the same ones over and over.

    Args:
        model: gives the probabilities.
        weight: by which their natural logarithms are multiplied.
        word_bonus: added for every word.
        unknown_word_penalty: taken from a word that the model does not know, beside the probability of <unk>.
    """

    def __init__(self, model: LanguageModel, *, weight: float, word_bonus: float, unknown_word_penalty: float) -> None:
        self.model = model
        self._weight = weight
        self._word_bonus = word_bonus
        self._unknown_word_penalty = unknown_word_penalty
        self._found: dict[tuple[State, str], WordGain] = {}

    def of(self, state: State, word: str) -> WordGain:
        """What `word` is worth after `state`."""
        if (state, word) not in self._found:
            log_probability, after = self.model.score(state, word)
            penalty = 0.0 if self.model.knows(word) else self._unknown_word_penalty
            self._found[(state, word)] = WordGain(self._weight * log_probability + self._word_bonus - penalty, after)
        return self._found[(state, word)]

    def finish(self, state: State) -> float:
        """What the end of the text adds after `state`."""
        return self._weight * self.model.finish(state)


class Lexicon:
    """The words that may be written, with all their beginnings."""

    def __init__(self, words: Collection[str]) -> None:
        self.words = frozenset(words)
        self.beginnings = frozenset(word[:length] for word in self.words for length in range(1, len(word) + 1))


class PrefixState(NamedTuple):
    """All that decides what a prefix may gain further on."""

    begun: str
    """The word that is not complete yet; always "" where every token is a word."""
    language: State
    """Of the language model, after the last complete word."""
    hot: int
    """Of the hot words."""


class PrefixScores:
    """What each further token is worth to a prefix; of what is None nothing is asked.

    Args:
        alphabet: what the V tokens stand for.
        words: scores a word when the word delimiter or the end of the text completes it; each token where there is no delimiter.
        hot_words: scores expected words, and their beginnings at once.
        lexicon: forbids all other words: what begins none of its words gains minus infinity.
    """

    def __init__(self, alphabet: CtcAlphabet, *, words: WordScores | None, hot_words: HotWords | None, lexicon: Lexicon | None) -> None:
        self.alphabet = alphabet
        self._words = words
        self._hot_words = hot_words
        self._lexicon = lexicon
        self._rows: dict[tuple[str, int], np.ndarray] = {}
        self.start = PrefixState("", words.model.begin() if words else (), hot_words.start if hot_words else 0)

    def gains(self, states: Sequence[PrefixState], tokens: np.ndarray) -> np.ndarray:
        """What each of `tokens` adds to a prefix in each of `states`: (K, C), natural logarithms."""
        gains = np.zeros((len(states), len(tokens)))
        if self._hot_words or self._lexicon:
            for index, state in enumerate(states):
                gains[index] = self._row(state)[tokens]
        if self._words:
            delimiter = self.alphabet.word_delimiter
            for column, token in enumerate(tokens.tolist()):
                if delimiter is None:
                    gains[:, column] += [self._words.of(state.language, self.alphabet.tokens[token]).gain for state in states]
                elif token == delimiter:
                    gains[:, column] += [self._words.of(state.language, state.begun).gain if state.begun else 0.0 for state in states]
        return gains

    def follow(self, state: PrefixState, token: int) -> PrefixState:
        """The state after `token`."""
        hot = self._hot_words.follow(state.hot, token) if self._hot_words else 0
        delimiter = self.alphabet.word_delimiter
        if token != delimiter and delimiter is not None:
            return PrefixState(state.begun + self.alphabet.tokens[token], state.language, hot)
        word = state.begun or ("" if token == delimiter else self.alphabet.tokens[token])
        language = self._words.of(state.language, word).state if self._words and word else state.language
        return PrefixState("", language, hot)

    def is_whole(self, state: PrefixState) -> bool:
        """Whether a text may end in `state`: not with a word that the lexicon only has the beginning of."""
        return not (state.begun and self._lexicon) or state.begun in self._lexicon.words

    def finish(self, state: PrefixState) -> float:
        """What the end of the text adds in `state`, natural logarithm."""
        gain = self._hot_words.finish(state.hot) if self._hot_words else 0.0
        if self._words:
            last = self._words.of(state.language, state.begun) if state.begun else WordGain(0.0, state.language)
            gain += last.gain + self._words.finish(last.state)
        return gain

    def _row(self, state: PrefixState) -> np.ndarray:
        """What hot words and lexicon give every token: (V,)."""
        begun = state.begun if self._lexicon else ""
        if (begun, state.hot) not in self._rows:
            row = self._hot_words.gains(state.hot) if self._hot_words else np.zeros(len(self.alphabet.tokens))
            self._rows[(begun, state.hot)] = np.where(self._allowed(begun, self._lexicon), row, -math.inf) if self._lexicon else row
        return self._rows[(begun, state.hot)]

    def _allowed(self, begun: str, lexicon: Lexicon) -> np.ndarray:
        """Which tokens may follow the beginning of a word: (V,) of bool."""
        delimiter = self.alphabet.word_delimiter
        if delimiter is None:
            return np.array([spelling in lexicon.words for spelling in self.alphabet.tokens])
        allowed = np.array([begun + spelling in lexicon.beginnings for spelling in self.alphabet.tokens])
        allowed[delimiter] = begun in lexicon.words
        return allowed
