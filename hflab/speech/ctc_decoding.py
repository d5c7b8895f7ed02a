"""From the outputs of a CTC model (Graves et al., 2006) to words with times and confidences, by the most likely token of each frame.

    alphabet = CtcAlphabet.of_tokenizer(tokenizer)
    transcripts = greedy_decode(logits.log_softmax(-1), lengths, alphabet)

`ctc_beam_search.beam_decode` is slower and finds better texts; both give what is defined here. This module knows nothing about models, sound,
seconds or language models: times are frames.

B: rows, T: frames of the longest row, V: tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HIGHEST = 1e-3  # a logarithm in half precision may be this much above 0


@dataclass(frozen=True)
class CtcAlphabet:
    """What the outputs of a CTC model stand for.

    With a word delimiter a word is what is between two of them, and a text has spaces there; several in a row are as one. Without, as for
    Chinese characters, every token is a word of its own and a text has no spaces. Tokens that spell "" act as further blanks.

    Raises:
        UserError: `blank` or `word_delimiter` is no id, or they are one.
    """

    tokens: tuple[str, ...]
    """How the token of each id is spelled; "" for special tokens. What the blank and the delimiter spell is not used."""
    blank: int
    """Id of the token that stands for no token."""
    word_delimiter: int | None = None
    """Id of the token between words; None: every token is a word."""
    silent: tuple[int, ...] = field(init=False)
    """Ids that write nothing: the blank, and all that spell "" but the delimiter."""

    def __post_init__(self) -> None:
        for name, token in {"blank": self.blank, "word_delimiter": self.word_delimiter or 0}.items():
            if not 0 <= token < len(self.tokens):
                raise UserError(f"{name} is {token}; it must be an id of the {len(self.tokens)} tokens, from 0 to {len(self.tokens) - 1}.")
        if self.blank == self.word_delimiter:
            raise UserError(f"blank and word_delimiter are both {self.blank}; they must be two tokens.")
        unspelled = {token for token, spelling in enumerate(self.tokens) if not spelling} | {self.blank}
        object.__setattr__(self, "silent", tuple(sorted(unspelled - {self.word_delimiter})))

    @classmethod
    def of_tokenizer(cls, tokenizer: "PreTrainedTokenizerBase") -> "CtcAlphabet":
        """The alphabet of transformers' tokenizer for CTC: the padding token is the blank, and special tokens are not spelled.

        The tokenizer's word delimiter, "|" unless it was told otherwise, is one only if the file of the vocabulary has it: transformers
        adds it after all other tokens where it is missing, as in vocabularies of Chinese characters, and no model was taught to write it.
        Where a model was, give it by hand: `dataclasses.replace(alphabet, word_delimiter=tokenizer.word_delimiter_token_id)`.

        Raises:
            UserError: the tokenizer has no padding token.
        """
        if tokenizer.pad_token_id is None:
            raise UserError("The tokenizer has no padding token, which stands for the blank of CTC; give it one (pad_token='<pad>').")
        ids = tokenizer.get_vocab()
        spellings = [""] * (max(ids.values()) + 1)
        for token, index in ids.items():
            if index not in tokenizer.all_special_ids:
                spellings[index] = token.lower() if tokenizer.do_lower_case else token
        delimiter = tokenizer.encoder.get(tokenizer.word_delimiter_token)
        if delimiter is not None:
            spellings[delimiter] = ""
        return cls(tuple(spellings), int(tokenizer.pad_token_id), delimiter)

    @property
    def space(self) -> str:
        """What is between two words of a text: a space, or nothing without a word delimiter."""
        return "" if self.word_delimiter is None else " "


class Word(NamedTuple):
    """A word and the frames in which it was written."""

    text: str
    start: int
    """The first frame of its first token."""
    end: int
    """The frame after the last one of its last token."""
    confidence: float
    """0 to 1: the geometric mean of the probabilities that its tokens have in the frames which write them, blanks left out.

    It says how sure the acoustic model is, frame by frame. It is no probability that the word is right, and neither language model nor hot
    words change it.
    """


@dataclass(frozen=True)
class Transcript:
    """What was found in a row."""

    text: str
    words: list[Word]
    log_probability: float
    """Natural logarithm of the probability that the CTC model gives: a greedy text's best alignment; a beam search's text by all of its
    alignments that stayed in the beam. At most 0 up to rounding, and 0 for a row without frames. What language model and hot words added
    is not in it."""


class TokenRun(NamedTuple):
    """Neighbouring frames of an alignment that write one token."""

    token: int
    start: int
    end: int
    """Exclusive."""
    log_probability: float
    """The sum over the frames."""


def greedy_decode(log_probabilities: Tensor, lengths: Tensor, alphabet: CtcAlphabet) -> list[Transcript]:
    """Return for each row the text of the most likely token of every frame, repetitions and blanks left out.

    Rows are cut to their true frames before anything else, so a row's transcript does not depend on its batch.

    Args:
        log_probabilities: (B, T, V), logarithms of a softmax; frames beyond a row's length may hold anything.
        lengths: (B,), the true frames of each row.
        alphabet: what the V tokens stand for.

    Raises:
        ValueError: shapes do not fit, or a true frame has NaN or what is no logarithm of a probability.
    """
    is_true = check_outputs(log_probabilities, lengths, alphabet)
    best, tokens = (of_frames.cpu()[is_true] for of_frames in log_probabilities.detach().max(dim=-1))
    rows, frames = is_true.nonzero(as_tuple=True)
    begins = torch.ones_like(rows, dtype=torch.bool)
    begins[1:] = (tokens[1:] != tokens[:-1]) | (rows[1:] != rows[:-1])
    sums = torch.zeros(int(begins.sum()), dtype=torch.float64).index_add_(0, begins.cumsum(0) - 1, best.double())
    sizes = begins.nonzero()[:, 0].diff(append=torch.tensor([len(rows)]))
    runs_of: list[list[TokenRun]] = [[] for _ in range(len(lengths))]
    columns = (rows[begins], tokens[begins], frames[begins], frames[begins] + sizes, sums)
    for row, token, start, end, total in zip(*(column.tolist() for column in columns), strict=True):
        runs_of[row].append(TokenRun(token, start, end, total))
    return [transcript_of(runs, alphabet, sum(run.log_probability for run in runs)) for runs in runs_of]


def transcript_of(runs: Sequence[TokenRun], alphabet: CtcAlphabet, log_probability: float) -> Transcript:
    """Return the words that the runs of an alignment write, in order; runs of silent tokens may be among them or not."""
    words: list[Word] = []
    letters: list[TokenRun] = []
    for run in runs:
        if run.token != alphabet.word_delimiter and run.token not in alphabet.silent:
            letters.append(run)
        if letters and (alphabet.word_delimiter is None or run.token == alphabet.word_delimiter):
            words.append(_word(letters, alphabet))
            letters = []
    if letters:
        words.append(_word(letters, alphabet))
    return Transcript(alphabet.space.join(word.text for word in words), words, log_probability)


def _word(letters: Sequence[TokenRun], alphabet: CtcAlphabet) -> Word:
    mean = sum(run.log_probability for run in letters) / sum(run.end - run.start for run in letters)
    return Word("".join(alphabet.tokens[run.token] for run in letters), letters[0].start, letters[-1].end, min(1.0, math.exp(mean)))


def check_outputs(log_probabilities: Tensor, lengths: Tensor, alphabet: CtcAlphabet) -> Tensor:
    """Return which frames are a row's own: (B, T) of bool, on the CPU, True for those before its length.

    The model may have fewer outputs than the alphabet tokens if those that are left over are special ones, as after `add_tokens`.

    Raises:
        ValueError: shapes do not fit, or a true frame has NaN or what is no logarithm of a probability.
    """
    if log_probabilities.ndim != 3 or lengths.shape != log_probabilities.shape[:1] or not log_probabilities.is_floating_point():
        raise ValueError(
            f"log_probabilities is {log_probabilities.dtype} of shape {tuple(log_probabilities.shape)} and lengths of {tuple(lengths.shape)}; "
            "give floats of shape (rows, frames, tokens) and one length for each row."
        )
    num_frames, num_tokens = log_probabilities.shape[1:]
    left_over = set(range(num_tokens, len(alphabet.tokens)))
    if num_tokens > len(alphabet.tokens) or alphabet.blank in left_over or not left_over <= set(alphabet.silent):
        raise ValueError(f"The frames have {num_tokens} outputs, but the alphabet has {len(alphabet.tokens)} tokens; give the model's own alphabet.")
    lengths = lengths.detach().cpu()
    if not all(0 <= length <= num_frames for length in lengths.tolist()):
        raise ValueError(f"The lengths are {lengths.tolist()}; each must be from 0 to the {num_frames} frames that there are.")
    is_true = torch.arange(num_frames) < lengths[:, None]
    highest = log_probabilities.detach().amax(dim=-1).cpu()[is_true]  # NaN where any token has NaN
    if highest.isnan().any():
        row, frame = (int(index[highest.isnan()][0]) for index in is_true.nonzero(as_tuple=True))
        raise ValueError(f"log_probabilities has NaN in row {row}, frame {frame}; the model's outputs are broken, look for what made them so.")
    if highest.numel() and highest.max() > HIGHEST:
        raise ValueError(f"log_probabilities has {highest.max():g}, but a logarithm of a probability is at most 0; give logits.log_softmax(-1).")
    return is_true
