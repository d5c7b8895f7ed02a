"""Word n-gram language models: what a word's probability is after the words before it.

    model = load_language_model("news.arpa.gz")
    score = model.score(model.begin(), "hello")
    total = score.log_probability + model.finish(score.state)

A model is read from ARPA by our own reader, from KenLM's binary files through the package kenlm, or built (`kneser_ney.build_ngram`). All
probabilities here are natural logarithms; an ARPA file holds base 10. This module knows nothing about acoustics, alphabets or decoding.
"""

import gzip
import importlib
import math
import os
import sys
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..errors import UserError

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
RESERVED = frozenset((BEGIN, END, UNKNOWN))
LOG_10 = math.log(10)
NEVER = -99.0 * LOG_10  # how ARPA writes the probability of <s>, which never follows anything
ABSENT_UNKNOWN = -100.0 * LOG_10  # what KenLM gives an unknown word where a file has no <unk>
ARPA_SUFFIXES = (".arpa", ".arpa.gz")
KENLM_SUFFIXES = (".bin", ".klm", ".trie")

State = tuple[Hashable, ...]
"""What a model remembers of the words before. Equal states give equal probabilities to whatever follows."""


class WordScore(NamedTuple):
    """What a model says of a word in a state."""

    log_probability: float
    """Natural logarithm, at most 0."""
    state: State
    """After the word."""


class LanguageModel(Protocol):
    """Anything that gives words probabilities from left to right."""

    def begin(self) -> State:
        """The state at the beginning of a sentence, after <s>."""

    def score(self, state: State, word: str) -> WordScore:
        """The probability of `word` after `state`, of <unk> where the model does not know it, and the state after it."""

    def finish(self, state: State) -> float:
        """The natural logarithm of the probability that the sentence ends after `state`: of </s>."""

    def knows(self, word: str) -> bool:
        """Whether the model has seen `word`; <s>, </s> and <unk> are no words."""


class NgramModel:
    """An n-gram model with back-off weights, as an ARPA file describes it (Katz, 1987, for the form).

    The probability of a word after a context is that of the whole n-gram where the model has it, and else the context's back-off weight times
    the probability after the context without its first word.

    Args:
        order: words of the longest n-gram, at least 1.
        log_probabilities: n-gram -> natural logarithm of the probability of its last word after the others.
        back_offs: context -> natural logarithm of its back-off weight. A context that is missing here is cut short in a state.

    Raises:
        ValueError: </s> or <unk> has no probability.
    """

    def __init__(self, order: int, log_probabilities: dict[tuple[str, ...], float], back_offs: dict[tuple[str, ...], float]) -> None:
        missing = [word for word in (END, UNKNOWN) if (word,) not in log_probabilities]
        if missing:
            raise ValueError(f"The model has no probability of {' and of '.join(missing)}; without it no sentence can be scored.")
        self.order = order
        self.log_probabilities = log_probabilities
        self.back_offs = back_offs

    def begin(self) -> State:
        """The state after <s>."""
        return self._state((BEGIN,))

    def score(self, state: State, word: str) -> WordScore:
        """The probability of `word` after `state`, of <unk> where the model does not know it, and the state after it."""
        known = word if (word,) in self.log_probabilities else UNKNOWN
        weight = 0.0
        for first in range(len(state)):
            found = self.log_probabilities.get((*state[first:], known))  # type: ignore[arg-type]  # a state of this class holds words
            if found is not None:
                return WordScore(weight + found, self._state((*state, known)))
            weight += self.back_offs[state[first:]]  # type: ignore[index]
        return WordScore(weight + self.log_probabilities[(known,)], self._state((*state, known)))

    def finish(self, state: State) -> float:
        """The natural logarithm of the probability of </s> after `state`."""
        return self.score(state, END).log_probability

    def knows(self, word: str) -> bool:
        """Whether the model has `word`; <s>, </s> and <unk> are no words."""
        return (word,) in self.log_probabilities and word not in RESERVED

    def vocabulary(self) -> list[str]:
        """All that can follow a context, </s> and <unk> included and <s> not: over them the probabilities sum to 1."""
        return [ngram[0] for ngram in self.log_probabilities if len(ngram) == 1 and ngram[0] != BEGIN]

    def _state(self, words: State) -> State:
        """The longest end of `words` that is a context of the model: what is before cannot change what follows."""
        first = max(0, len(words) - self.order + 1)
        while first < len(words) and words[first:] not in self.back_offs:
            first += 1
        return words[first:]


class KenlmModel:
    """A model of KenLM (Heafield, 2011), read by its own package: binary files of any kind, and ARPA.

    Args:
        path: the model's file.

    Raises:
        UserError: the package is not installed, or the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._kenlm = _kenlm(path)
        settings = self._kenlm.Config()
        settings.show_progress = False
        settings.arpa_complain = self._kenlm.ARPALoadComplain.NONE
        try:
            self._model = self._kenlm.Model(os.fspath(path), settings)
        except OSError as error:
            raise UserError(f"The language model {os.fspath(path)!r} cannot be read by KenLM: {error}") from error

    def begin(self) -> State:
        """The state after <s>."""
        state = self._kenlm.State()
        self._model.BeginSentenceWrite(state)
        return (state,)

    def score(self, state: State, word: str) -> WordScore:
        """The probability of `word` after `state`, of <unk> where the model does not know it, and the state after it."""
        after = self._kenlm.State()
        return WordScore(self._model.BaseScore(state[0], word, after) * LOG_10, (after,))

    def finish(self, state: State) -> float:
        """The natural logarithm of the probability of </s> after `state`."""
        return self.score(state, END).log_probability

    def knows(self, word: str) -> bool:
        """Whether the model has `word`; <s>, </s> and <unk> are no words."""
        return word in self._model and word not in RESERVED


def _kenlm(path: str | os.PathLike[str]) -> Any:
    try:
        return importlib.import_module("kenlm")
    except ImportError as error:
        raise UserError(
            f"The language model {os.fspath(path)!r} needs the package 'kenlm', which is not installed; run: pip install ufal-kenlm "
            "(or give the model as .arpa, which needs no package)"
        ) from error


def load_language_model(path: str | os.PathLike[str]) -> LanguageModel:
    """Read a model by the end of its file's name: .arpa and .arpa.gz ourselves; .bin, .klm and .trie, KenLM's, through its package.

    Raises:
        UserError: the name ends otherwise, the file cannot be read, or KenLM's package is missing.
    """
    name = os.fspath(path).lower()
    if name.endswith(ARPA_SUFFIXES):
        return read_arpa(path)
    if name.endswith(KENLM_SUFFIXES):
        return KenlmModel(path)
    allowed = ", ".join(ARPA_SUFFIXES + KENLM_SUFFIXES)
    raise UserError(f"The language model {os.fspath(path)!r} is of a kind that its name does not tell; rename it to end in one of: {allowed}.")


def perplexity(model: LanguageModel, sentences: Iterable[Sequence[str]]) -> float:
    """Return how many equally likely words the model hesitates between, on average per word and sentence end; at least 1, lower is better.

    Words that the model does not know count as <unk>. Raises `UserError` if there is no sentence.
    """
    total, num_scored = 0.0, 0
    for sentence in sentences:
        state = model.begin()
        for word in sentence:
            log_probability, state = model.score(state, word)
            total += log_probability
        total += model.finish(state)
        num_scored += len(sentence) + 1
    if not num_scored:
        raise UserError("There are no sentences to measure the perplexity on; give at least one.")
    return math.exp(-total / num_scored)


class _ArpaLines:
    """The lines of an ARPA file that are not empty, one at a time, with errors that name where they are."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.number = 0
        self.text = ""
        try:
            self._file = gzip.open(path, "rb") if self.path.lower().endswith(".gz") else open(path, "rb")  # noqa: SIM115  # closed by read_arpa
        except OSError as error:
            raise UserError(f"The language model {self.path!r} cannot be opened: {error.strerror}. Check the path.") from error

    def close(self) -> None:
        self._file.close()

    def advance(self) -> str:
        """Go to the next line that is not empty and return it."""
        self.text = ""
        while not self.text:
            try:
                line = self._file.readline()
            except (OSError, EOFError) as error:  # of gzip: damaged or cut short
                raise self.error(f"the compressed file cannot be read on ({error}); fetch or write it again") from error
            if not line:
                raise self.error("the file ends here, without \\end\\; it was cut short or is no ARPA file")
            self.number += 1
            try:
                self.text = line.decode("utf-8").strip(" \t\r\n")  # no other space: a word may be of, say, U+3000
            except UnicodeDecodeError as error:
                raise self.error("the line is not UTF-8; convert the file (iconv -t utf-8)") from error
        return self.text

    def expect(self, header: str) -> None:
        if self.text != header:
            raise self.error(f"the line is {self.text[:60]!r}, where {header} is due")

    def error(self, what: str) -> UserError:
        return UserError(f"The language model {self.path!r}, line {self.number}: {what}.")


def read_arpa(path: str | os.PathLike[str]) -> NgramModel:
    """Read an n-gram model in ARPA format, UTF-8, compressed if the name ends in .gz; a million n-grams take some seconds.

    Where the file has no <unk>, unknown words get the logarithm of 10^-100, as KenLM does.

    Raises:
        UserError: the file is missing or malformed; the message names the line.
    """
    lines = _ArpaLines(path)
    try:
        num_ngrams = _read_header(lines)
        log_probabilities: dict[tuple[str, ...], float] = {}
        back_offs: dict[tuple[str, ...], float] = {}
        for order, expected in enumerate(num_ngrams, start=1):
            lines.expect(f"\\{order}-grams:")
            contexts = back_offs if order < len(num_ngrams) else None
            found = _read_section(lines, order, log_probabilities, contexts)
            if found != expected:
                raise lines.error(f"there are {found} {order}-grams before it, but the head of the file says {expected}; it is damaged")
        lines.expect("\\end\\")
        if (END,) not in log_probabilities:
            raise lines.error("the file has no 1-gram </s>, so no sentence could end; it is no model of sentences")
    finally:
        lines.close()
    for ngram in [ngram for ngram in log_probabilities if len(ngram) > 1 and ngram[:-1] not in back_offs]:
        for length in range(1, len(ngram)):  # a context may have no weight, or be missing in a pruned file: states must reach it all the same
            back_offs.setdefault(ngram[:length], 0.0)
    log_probabilities.setdefault((UNKNOWN,), ABSENT_UNKNOWN)
    return NgramModel(len(num_ngrams), log_probabilities, back_offs)


def _read_header(lines: _ArpaLines) -> list[int]:
    """The number of n-grams of each order, 1 first; `lines` then stands on the next line."""
    while lines.advance() != "\\data\\":  # what is before it is a comment
        pass
    num_ngrams: list[int] = []
    while lines.advance().startswith("ngram "):
        order, _, number = lines.text.removeprefix("ngram ").partition("=")
        if order.strip() != str(len(num_ngrams) + 1) or not number.strip().isdecimal():
            raise lines.error(f"the line is {lines.text[:60]!r}, where 'ngram {len(num_ngrams) + 1}=NUMBER' is due")
        num_ngrams.append(int(number))
    if not num_ngrams:
        raise lines.error(f"the line is {lines.text[:60]!r}, where 'ngram 1=NUMBER' is due")
    return num_ngrams


def _read_section(
    lines: _ArpaLines, order: int, log_probabilities: dict[tuple[str, ...], float], back_offs: dict[tuple[str, ...], float] | None
) -> int:
    """Add the n-grams of one order to the tables and return how many; `back_offs` is None for the longest, which have none."""
    number = 0
    while not lines.advance().startswith("\\"):
        fields = [field for field in lines.text.replace("\t", " ").split(" ") if field]
        words = tuple(map(sys.intern, fields[1 : order + 1]))
        if not order + 1 <= len(fields) <= order + 1 + (back_offs is not None):
            raise lines.error(f"it has {len(fields)} fields; due are a logarithm, {order} words{', perhaps a back-off' * (back_offs is not None)}")
        log_probabilities[words] = _logarithm(lines, fields[0], highest=0.0)
        if back_offs is not None and len(fields) > order + 1:
            back_offs[words] = _logarithm(lines, fields[-1], highest=math.inf)
        number += 1
    return number


def _logarithm(lines: _ArpaLines, field: str, *, highest: float) -> float:
    """The natural logarithm of what `field` gives to base 10."""
    try:
        value = float(field)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value <= highest):
        raise lines.error(f"{field[:60]!r} is no {'logarithm of a probability: a number of at most 0' if highest == 0 else 'number'}")
    return value * LOG_10


def write_arpa(model: NgramModel, path: str | os.PathLike[str]) -> None:
    """Write `model` in ARPA format, UTF-8, logarithms to base 10 of seven decimals; compressed if the name ends in .gz."""
    by_order: list[list[tuple[str, ...]]] = [[] for _ in range(model.order)]
    for ngram in sorted(model.log_probabilities):
        by_order[len(ngram) - 1].append(ngram)
    parts = ["\\data\\\n", *(f"ngram {order}={len(ngrams)}\n" for order, ngrams in enumerate(by_order, start=1))]
    for order, ngrams in enumerate(by_order, start=1):
        parts.append(f"\n\\{order}-grams:\n")
        parts.extend(_arpa_line(model, ngram) for ngram in ngrams)
    parts.append("\n\\end\\\n")
    content = "".join(parts).encode("utf-8")
    Path(path).write_bytes(gzip.compress(content, mtime=0) if os.fspath(path).lower().endswith(".gz") else content)


def _arpa_line(model: NgramModel, ngram: tuple[str, ...]) -> str:
    line = f"{model.log_probabilities[ngram] / LOG_10:.7f}\t{' '.join(ngram)}"
    if ngram in model.back_offs:
        line += f"\t{model.back_offs[ngram] / LOG_10:.7f}"
    return line + "\n"
