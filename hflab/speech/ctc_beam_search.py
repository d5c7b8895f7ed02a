"""From the outputs of a CTC model to the most likely text, with a language model, expected words and a lexicon if they are given.

    options = BeamOptions(language_model=load_language_model("news.arpa.gz"), hot_words=["Aristotle"])
    transcripts = beam_decode(logits.log_softmax(-1), lengths, alphabet, options)

Prefix beam search (Hannun et al., 2014, arXiv:1408.2873, algorithm 1): what is kept from frame to frame are beginnings of texts, each with the
probability of all its alignments. A frame is one computation over all prefixes and tokens; only what survives it is looked at one by one.
This module knows nothing about models or sound.

B: rows, T: frames of a row, V: tokens, K: prefixes in the beam, C: tokens that may be written in a frame.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..errors import UserError
from .ctc_alignment import best_alignment, with_silence
from .ctc_decoding import CtcAlphabet, Transcript, check_outputs, transcript_of
from .hot_words import HotWords
from .language_model import LanguageModel
from .prefix_scores import Lexicon, PrefixScores, PrefixState, WordScores


@dataclass(frozen=True)
class BeamOptions:
    """How a beam search looks for a text, and what a text is worth beside its CTC log-probability; all worths are natural logarithms.

    Raises:
        UserError: a number is out of its range, or words are given as one text.
    """

    num_beams: int = 32
    """Prefixes that are kept from frame to frame, at least 1. More is slower and misses less."""
    token_threshold: float = -7.0
    """A token with a lower log-probability in a frame is not written there unless it is the frame's most likely; at most 0."""
    num_tokens_per_frame: int = 32
    """So many tokens, the most likely ones, may be written in a frame; at least 1."""
    language_model: LanguageModel | None = None
    """Its words must be spelled as the alphabet spells them, in upper or lower case."""
    language_model_weight: float = 0.5
    """By which the log-probabilities of words and of the end of the text are multiplied, at least 0."""
    word_bonus: float = 1.0
    """Added for every word where there is a language model, which else would prefer few words."""
    unknown_word_penalty: float = 10.0
    """Taken for every word that the language model does not know, at least 0."""
    hot_words: Sequence[str] = ()
    """Words and phrases to expect; see `hot_words.HotWords`."""
    hot_word_bonus: float = 10.0
    """Added for every hot word, and a share of it for the beginning of one."""
    lexicon: Collection[str] | None = None
    """If given, only these words are written; without a word delimiter, only these tokens. It must not change later."""

    def __post_init__(self) -> None:
        for name, least in {"num_beams": 1, "num_tokens_per_frame": 1, "language_model_weight": 0, "unknown_word_penalty": 0}.items():
            if not getattr(self, name) >= least:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if not self.token_threshold <= 0:
            raise UserError(f"token_threshold is {self.token_threshold}; it is a log-probability and must be at most 0.")
        for name in ("hot_words", "lexicon"):
            if isinstance(getattr(self, name), str):
                raise UserError(f"{name} is the text {getattr(self, name)!r}; give a list of words, such as text.split().")

    def scores(self, alphabet: CtcAlphabet) -> PrefixScores:
        """What these options make of the beginning of a text. Raises `UserError` if the alphabet cannot spell a hot word or any of the lexicon."""
        words = None
        if self.language_model is not None:
            bonus, penalty = self.word_bonus, self.unknown_word_penalty
            words = WordScores(self.language_model, weight=self.language_model_weight, word_bonus=bonus, unknown_word_penalty=penalty)
        hot_words = HotWords(self.hot_words, alphabet, bonus=self.hot_word_bonus) if self.hot_words else None
        if self._lexicon and self._lexicon.beginnings.isdisjoint(spelling for spelling in alphabet.tokens if spelling):
            some = sorted(self._lexicon.words)[:3]
            raise UserError(f"The lexicon has {len(self._lexicon.words)} words {some}, none of which the model can spell; mind upper and lower case.")
        return PrefixScores(alphabet, words=words, hot_words=hot_words, lexicon=self._lexicon)

    @cached_property
    def _lexicon(self) -> Lexicon | None:
        """Made once: a large one takes longer than a search."""
        return None if self.lexicon is None else Lexicon(self.lexicon)


def beam_decode(log_probabilities: Tensor, lengths: Tensor, alphabet: CtcAlphabet, options: BeamOptions | None = None) -> list[Transcript]:
    """Return for each row the text that is worth most: its log-probability and what language model and hot words add.

    A text is told from another by its tokens, delimiters at its ends and several in a row aside. The times of its words are those of its
    best alignment. Where a lexicon allows none of the texts in the beam to end, their last words are cut back until it does.

    Args:
        log_probabilities: (B, T, V), logarithms of a softmax; frames beyond a row's length may hold anything.
        lengths: (B,), the true frames of each row.
        alphabet: what the V tokens stand for.
        options: default: no language model, hot words or lexicon.

    Raises:
        ValueError: shapes do not fit, or a true frame has NaN or what is no logarithm of a probability.
        UserError: the alphabet cannot spell a hot word, or no word of the lexicon.
    """
    options = options or BeamOptions()
    check_outputs(log_probabilities, lengths, alphabet)
    scores = options.scores(alphabet)
    rows = zip(log_probabilities.detach().cpu(), lengths.tolist(), strict=True)
    return [_decode(with_silence(row[:length].double().numpy(), alphabet), scores, options) for row, length in rows]


class _Beam(NamedTuple):
    """The prefixes of a frame with the log-probabilities, each (K,), of their alignments up to it."""

    prefixes: list[int]
    """Ids in the tree."""
    silent: np.ndarray
    """Of the alignments whose last frame is silent."""
    written: np.ndarray
    """Of those whose last frame writes the prefix's last token."""


class _PrefixTree:
    """Every prefix that has been in the beam, by id; 0 is the empty one, and equal prefixes have one id."""

    def __init__(self, scores: PrefixScores, no_token: int) -> None:
        self.scores = scores
        self.parents = [-1]
        self.tokens = [no_token]
        """The last token of each; of the empty one a column of the frames that has no probability."""
        self.states: list[PrefixState] = [scores.start]
        self.worths = [0.0]
        """What the scores have added so far."""
        self._children: dict[tuple[int, int], int] = {}

    def child(self, prefix: int, token: int, gain: float) -> int:
        """The id of `prefix` with `token` after it."""
        known = self._children.setdefault((prefix, token), len(self.parents))
        if known == len(self.parents):
            self.parents.append(prefix)
            self.tokens.append(token)
            self.states.append(self.scores.follow(self.states[prefix], token))
            self.worths.append(self.worths[prefix] + gain)
        return known

    def text_of(self, prefix: int) -> int:
        """The prefix without a delimiter at its end, which writes the same."""
        return self.parents[prefix] if prefix and self.tokens[prefix] == self.scores.alphabet.word_delimiter else prefix

    def path(self, prefix: int) -> list[int]:
        """The tokens of `prefix`."""
        tokens = []
        while prefix:
            tokens.append(self.tokens[prefix])
            prefix = self.parents[prefix]
        return tokens[::-1]


def _decode(frames: np.ndarray, scores: PrefixScores, options: BeamOptions) -> Transcript:
    """The best text of one row; `frames` is (T, V + 3), by `with_silence`."""
    tree = _PrefixTree(scores, no_token=frames.shape[1] - 1)
    beam = _Beam([0], silent=np.zeros(1), written=np.full(1, -math.inf))
    for frame, tokens in zip(frames, _tokens_to_write(frames, scores.alphabet, options), strict=True):
        beam = _advance(beam, frame, tokens, tree, options.num_beams)
    probabilities = _probabilities_of_texts(beam, tree)
    best = max(probabilities, key=lambda prefix: probabilities[prefix] + tree.worths[prefix] + scores.finish(tree.states[prefix]))
    return transcript_of(best_alignment(frames, tree.path(best), scores.alphabet), scores.alphabet, probabilities[best])


def _tokens_to_write(frames: np.ndarray, alphabet: CtcAlphabet, options: BeamOptions) -> list[np.ndarray]:
    """The ids of the tokens that may be written in each frame, which are likely enough; rising."""
    num_tokens = frames.shape[1] - 3
    ids = np.setdiff1d(np.arange(num_tokens), alphabet.silent)
    spoken = frames[:, ids]
    likely = spoken >= options.token_threshold
    likely |= spoken == frames[:, :num_tokens].max(axis=1, keepdims=True)
    if len(ids) > options.num_tokens_per_frame:
        order = np.argpartition(spoken, -options.num_tokens_per_frame, axis=1)
        np.put_along_axis(likely, order[:, : -options.num_tokens_per_frame], False, axis=1)
    return [ids[of_frame] for of_frame in likely]


def _advance(beam: _Beam, frame: np.ndarray, tokens: np.ndarray, tree: _PrefixTree, num_beams: int) -> _Beam:
    """The beam after one more frame.

    Args:
        beam: K prefixes.
        frame: (V + 3,), a row of `with_silence`.
        tokens: (C,), ids that may be written.
        tree: knows the prefixes; new ones are added.
        num_beams: of the prefixes as they are and those with one more token, so many are kept.
    """
    last = np.array([tree.tokens[prefix] for prefix in beam.prefixes])
    worths = np.array([tree.worths[prefix] for prefix in beam.prefixes])
    gains = tree.scores.gains([tree.states[prefix] for prefix in beam.prefixes], tokens)
    stay, longer = _continued(beam, frame, tokens, last, tree)
    _move_to_known(stay, longer, tokens, last, tree)
    whole = np.logaddexp(stay.silent, stay.written) + worths
    ranks = np.concatenate([whole, (longer + gains + worths[:, None]).ravel()])
    kept = np.argpartition(-ranks, num_beams - 1)[:num_beams] if len(ranks) > num_beams else np.arange(len(ranks))
    kept = kept[ranks[kept] > -math.inf] if ranks.max() > -math.inf else np.arange(1)
    staying = kept[kept < len(last)]
    rows, columns = np.divmod(kept[kept >= len(last)] - len(last), max(1, len(tokens)))
    prefixes = [stay.prefixes[index] for index in staying.tolist()]
    chosen = zip(rows.tolist(), tokens[columns].tolist(), gains[rows, columns].tolist(), strict=True)
    prefixes += [tree.child(stay.prefixes[row], token, gain) for row, token, gain in chosen]
    silent = np.concatenate([stay.silent[staying], np.full(len(rows), -math.inf)])
    return _Beam(prefixes, silent, np.concatenate([stay.written[staying], longer[rows, columns]]))


def _continued(beam: _Beam, frame: np.ndarray, tokens: np.ndarray, last: np.ndarray, tree: _PrefixTree) -> tuple[_Beam, np.ndarray]:
    """The log-probabilities of the prefixes as they are, and (K, C) of those with one more token; `last` is (K,), their last tokens.

    After a delimiter and at the beginning of the text a delimiter writes nothing, so that there all alignments count as silent ones.
    """
    no_token, delimiter = len(frame) - 1, tree.scores.alphabet.word_delimiter
    at_edge = (last == no_token) | (last == delimiter)
    either = np.logaddexp(beam.silent, beam.written)
    silent = either + frame[np.where(at_edge, no_token - 1, no_token - 2)]
    written = beam.written + frame[np.where(at_edge, no_token, last)]
    before = np.where(last[:, None] == tokens, beam.silent[:, None], either[:, None])  # without silence between, equal tokens would be one
    longer = np.where(at_edge[:, None] & (tokens == delimiter), -math.inf, before + frame[tokens])
    return _Beam(beam.prefixes, silent, written), longer


def _move_to_known(stay: _Beam, longer: np.ndarray, tokens: np.ndarray, last: np.ndarray, tree: _PrefixTree) -> None:
    """Add what leads from one prefix of the beam to another of them to the latter, and take it out of `longer`."""
    parents = np.array([tree.parents[prefix] for prefix in stay.prefixes])
    children, rows = np.nonzero(parents[:, None] == np.array(stay.prefixes))
    found, columns = np.nonzero(last[children][:, None] == tokens)
    children, rows = children[found], rows[found]
    stay.written[children] = np.logaddexp(stay.written[children], longer[rows, columns])
    longer[rows, columns] = -math.inf


def _probabilities_of_texts(beam: _Beam, tree: _PrefixTree) -> dict[int, float]:
    """Prefix -> log-probability of each text that may end here; if none may, of what is left when their last words are cut back."""
    of_text: dict[int, float] = {}
    for prefix, log_probability in zip(beam.prefixes, np.logaddexp(beam.silent, beam.written).tolist(), strict=True):
        text = tree.text_of(prefix)
        of_text[text] = float(np.logaddexp(of_text.get(text, -math.inf), log_probability))
    whole = {text: log_probability for text, log_probability in of_text.items() if tree.scores.is_whole(tree.states[text])}
    for text, log_probability in of_text.items() if not whole else ():
        while not tree.scores.is_whole(tree.states[text]):
            text = tree.parents[text]
        text = tree.text_of(text)
        whole[text] = float(np.logaddexp(whole.get(text, -math.inf), log_probability))
    return whole
