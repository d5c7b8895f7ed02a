"""The most likely alignment of given tokens to the frames of a CTC model (Viterbi over the states of Graves et al., 2006, section 4.1).

    runs = best_alignment(with_silence(log_probabilities, alphabet), tokens, alphabet)

T: frames of one row, V: tokens, L: tokens to align.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from .ctc_decoding import CtcAlphabet, TokenRun

FLOOR = -1e5  # a token of probability zero is the last resort, but no dead end


def with_silence(log_probabilities: np.ndarray, alphabet: CtcAlphabet) -> np.ndarray:
    """Return the frames with three more columns, so that each step of an alignment has one to look up.

    Args:
        log_probabilities: (T, V), float64.
        alphabet: what the tokens stand for.

    Returns:
        (T, V + 3). Column V: any silent token. Column V + 1: any silent token or the word delimiter, for between words a further delimiter
        writes nothing. Column V + 2: minus infinity, for what cannot be.
    """
    silent = [token for token in alphabet.silent if token < log_probabilities.shape[1]]
    silence = np.logaddexp.reduce(log_probabilities[:, silent], axis=1)
    between = silence if alphabet.word_delimiter is None else np.logaddexp(silence, log_probabilities[:, alphabet.word_delimiter])
    return np.column_stack([log_probabilities, silence, between, np.full_like(silence, -np.inf)])


def best_alignment(frames: np.ndarray, tokens: Sequence[int], alphabet: CtcAlphabet) -> list[TokenRun]:
    """Return where each of `tokens` is written in the most likely of their alignments; silence is left out.

    It needs about 2 T L bytes.

    Args:
        frames: (T, V + 3), by `with_silence`.
        tokens: L ids, none silent, no two delimiters in a row.
        alphabet: what the tokens stand for.

    Raises:
        ValueError: there are fewer frames than the tokens need, one for each and one between equal neighbours.
    """
    num_repeats = sum(left == right for left, right in itertools.pairwise(tokens))
    if len(frames) < len(tokens) + num_repeats:
        raise ValueError(f"{len(tokens)} tokens, {num_repeats} of them like the one before, cannot be aligned to {len(frames)} frames; give fewer.")
    if not tokens:
        return []
    columns = _columns(tokens, alphabet, silence=frames.shape[1] - 3)
    states = _best_states(np.maximum(frames, FLOOR), columns)
    starts, ends = (np.searchsorted(states, np.arange(1, len(columns), 2), side).tolist() for side in ("left", "right"))
    spans = zip(tokens, starts, ends, strict=True)
    return [TokenRun(token, start, end, float(frames[start:end, token].sum())) for token, start, end in spans]


def _columns(tokens: Sequence[int], alphabet: CtcAlphabet, silence: int) -> np.ndarray:
    """Which column of the frames each state emits: silence before, between and after the tokens, at the edges of words with delimiters."""
    at_edge = np.ones(len(tokens) + 1, dtype=bool)
    at_edge[1:-1] = np.asarray(tokens[:-1]) == alphabet.word_delimiter
    columns = np.empty(2 * len(tokens) + 1, dtype=np.int64)
    columns[0::2] = np.where(at_edge, silence + 1, silence)
    columns[1::2] = tokens
    return columns


def _best_states(frames: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The state of each frame in the most likely path from the first two states to the last two, (T,), never falling."""
    num_states = len(columns)
    may_skip = np.zeros(num_states, dtype=bool)  # the silence between two different tokens
    may_skip[3::2] = columns[3::2] != columns[1:-2:2]
    scores = np.full((3, num_states), -np.inf)  # by how many states the path advances
    current = np.full(num_states, -np.inf)
    current[:2] = frames[0, columns[:2]]
    advances = np.zeros((len(frames), num_states), dtype=np.int8)
    for time in range(1, len(frames)):
        scores[0] = current
        scores[1, 1:] = current[:-1]
        scores[2, 2:] = np.where(may_skip[2:], current[:-2], -np.inf)
        advances[time] = scores.argmax(axis=0)
        current = scores.max(axis=0) + frames[time, columns]
    states = np.empty(len(frames), dtype=np.int64)
    states[-1] = num_states - 1 if current[-1] > current[-2] else num_states - 2
    for time in range(len(frames) - 1, 0, -1):
        states[time - 1] = states[time] - advances[time, states[time]]
    return states
