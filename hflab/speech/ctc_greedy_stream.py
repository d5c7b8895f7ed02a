"""Words from the outputs of a CTC model that come piece by piece: what `greedy_decode` finds in the whole, without keeping the frames.

    stream = GreedyStream(alphabet)
    for log_probabilities in pieces:
        stream.feed(log_probabilities)
        print([word.text for word in stream.words])

Of the past it holds the words that nobody has taken yet, so it is to be emptied by `take`. Knows nothing about models, sound and seconds.

F: frames of a piece, V: tokens.
"""

import torch
from torch import Tensor

from .ctc_decoding import CtcAlphabet, TokenRun, Word, check_outputs, transcript_of


class GreedyStream:
    """The most likely token of every frame, repetitions and blanks left out."""

    def __init__(self, alphabet: CtcAlphabet) -> None:
        self.num_frames = 0
        """That have been read."""
        self._alphabet = alphabet
        self._words: list[Word] = []  # that are whole
        self._letters: list[TokenRun] = []  # of the word that is being written
        self._run: TokenRun | None = None  # which the next frame may continue
        self._end_of_letters = 0

    def feed(self, log_probabilities: Tensor) -> None:
        """Read the next frames, (F, V) logarithms of a softmax. Raises `ValueError` as `greedy_decode` does."""
        check_outputs(log_probabilities[None], torch.tensor([len(log_probabilities)]), self._alphabet)
        best, tokens = log_probabilities.detach().max(dim=-1)
        for token, log_probability in zip(tokens.tolist(), best.double().tolist(), strict=True):
            self._read(token, log_probability)

    @property
    def words(self) -> list[Word]:
        """The words that have not been taken, in order, with frames counted from the first one fed; the last may go on."""
        return [*self._words, *self._written()]

    @property
    def num_silent_frames(self) -> int:
        """How many frames lie between the last token that writes something and the end of what was fed."""
        return self.num_frames - self._end_of_letters

    def take(self, count: int) -> list[Word]:
        """Return the first `count` of `words` and forget them.

        With the last word its letters end: a token that goes on in the next frame begins another word.
        """
        words = self.words
        if count > len(self._words):
            self._letters, self._run = [], None
        self._words = self._words[count:]
        return words[:count]

    def _read(self, token: int, log_probability: float) -> None:
        place, run = self.num_frames, self._run
        self.num_frames += 1
        if run is not None and run.token == token:
            self._run = run._replace(end=run.end + 1, log_probability=run.log_probability + log_probability)
        else:
            self._end_run()
            self._run = TokenRun(token, place, place + 1, log_probability)
        if token != self._alphabet.word_delimiter and token not in self._alphabet.silent:
            self._end_of_letters = self.num_frames

    def _end_run(self) -> None:
        """Count the run among the letters, and end the word if it does."""
        if self._run is None or self._run.token in self._alphabet.silent:
            return
        if self._alphabet.word_delimiter in (None, self._run.token):
            self._words += self._written()
            self._letters = []
        else:
            self._letters.append(self._run)

    def _written(self) -> list[Word]:
        """What the letters and the present run write: one word at most."""
        runs = self._letters if self._run is None else [*self._letters, self._run]
        return transcript_of(runs, self._alphabet, 0.0).words
