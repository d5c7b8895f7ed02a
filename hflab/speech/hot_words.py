"""Words that a listener expects, such as names: texts which have them, or begin to, are worth more in a beam search.

    hot_words = HotWords(["Aristotle", "New York"], alphabet, bonus=10.0)
    gains = hot_words.gains(hot_words.start)

The words form one automaton (Aho and Corasick, 1975), so a phrase of several words, or of several characters of Chinese, is found wherever it
is. This module knows nothing about beams, probabilities or language models.

V: tokens.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import UserError
from .ctc_decoding import CtcAlphabet


@dataclass
class _Node:
    """What has been matched: the longest end of the text with which a hot word begins."""

    children: dict[str, int] = field(default_factory=dict)
    shorter: int = 0  # the node of the next shorter end of the text
    num_completed: int = 0  # hot words that end here
    fraction: float = 0.0  # of the shortest hot word that may yet be completed, how much is there: 0 to 1


class HotWords:
    """How much a text gains by each further token.

    A text is worth `bonus` for each time that it has a hot word, and for the beginning of one at its end the written share of it:
    "Ari" of "Aristotle" has a third. That share is taken back when the text goes on otherwise or ends. With a word delimiter a hot word
    counts only as whole words: "art" not in "party".

    Args:
        words: words or phrases, spelled as the alphabet spells them.
        alphabet: what the V tokens stand for.
        bonus: what a hot word is worth, natural logarithm; below 0 it is avoided.

    Raises:
        UserError: a word is empty or cannot be spelled.
    """

    def __init__(self, words: Sequence[str], alphabet: CtcAlphabet, *, bonus: float) -> None:
        self._spellings = list(alphabet.tokens)
        self._edge = alphabet.space
        if alphabet.word_delimiter is not None:
            self._spellings[alphabet.word_delimiter] = self._edge
        self._bonus = bonus
        self._nodes = [_Node()]
        self._rows: dict[int, tuple[np.ndarray, list[int]]] = {}
        for word in words:
            self._add(self._edge + _spelled(word, alphabet) + self._edge)
        self._link()
        self.start = self._walk(0, self._edge)[1]

    def gains(self, state: int) -> np.ndarray:
        """What each token adds to a text in `state`: (V,)."""
        return self._row(state)[0]

    def follow(self, state: int, token: int) -> int:
        """The state after `token`."""
        return self._row(state)[1][token]

    def finish(self, state: int) -> float:
        """What the end of the text adds: a last word may be complete now, and no beginning counts any more."""
        num_completed, _ = self._walk(state, self._edge)
        return self._bonus * (num_completed - self._nodes[state].fraction)

    def _row(self, state: int) -> tuple[np.ndarray, list[int]]:
        """Gains and next states of all tokens, computed when first asked for: most states of many hot words are never reached."""
        if state not in self._rows:
            walked = [self._walk(state, spelling) for spelling in self._spellings]
            before = self._nodes[state].fraction
            gains = [num_completed + self._nodes[after].fraction - before for num_completed, after in walked]
            self._rows[state] = np.array(gains) * self._bonus, [after for _, after in walked]
        return self._rows[state]

    def _walk(self, state: int, text: str) -> tuple[int, int]:
        """How many hot words end in `text` after `state`, and the state after it."""
        num_completed = 0
        for character in text:
            while state and character not in self._nodes[state].children:
                state = self._nodes[state].shorter
            state = self._nodes[state].children.get(character, 0)
            num_completed += self._nodes[state].num_completed
        return num_completed, state

    def _add(self, pattern: str) -> None:
        state, length = 0, len(pattern) - 2 * len(self._edge)
        for position, character in enumerate(pattern):
            if character not in self._nodes[state].children:
                self._nodes[state].children[character] = len(self._nodes)
                self._nodes.append(_Node())
            state = self._nodes[state].children[character]
            if position + 1 < len(pattern):
                matched = (position + 1 - len(self._edge)) / length
                self._nodes[state].fraction = max(self._nodes[state].fraction, matched)
        self._nodes[state].num_completed = 1

    def _link(self) -> None:
        """Lead every node to the one of the next shorter end of its text, nearest to the root first, and pass on what counts there."""
        waiting = deque(self._nodes[0].children.values())
        while waiting:
            state = waiting.popleft()
            node = self._nodes[state]
            for character, child in node.children.items():
                self._nodes[child].shorter = self._walk(node.shorter, character)[1]
                waiting.append(child)
            node.num_completed += self._nodes[node.shorter].num_completed
            node.fraction = max(node.fraction, self._nodes[node.shorter].fraction)


def _spelled(word: str, alphabet: CtcAlphabet) -> str:
    """The word without needless spaces. Raises `UserError` if the alphabet cannot spell it."""
    tidy = alphabet.space.join(word.split())
    known = {*"".join(alphabet.tokens), alphabet.space}
    unknown = [character for character in tidy if character not in known]
    if unknown:
        other = f", but {unknown[0].swapcase()!r} it has" if unknown[0].swapcase() in known else ""
        raise UserError(f"The hot word {word!r} has {unknown[0]!r}, which no token of the model spells{other}; spell it as the model does.")
    if not tidy:
        raise UserError(f"The hot word {word!r} is empty; leave it out.")
    return tidy
