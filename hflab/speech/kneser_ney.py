"""Word n-gram models built from sentences by interpolated modified Kneser-Ney smoothing (Chen and Goodman, 1998).

    model = build_ngram([["the", "cat", "sat"], ["the", "dog"]], order=3)

Everything is held in dictionaries: a few million words of text are comfortable, more is KenLM's business (`lmplz`). Nothing is pruned. This
module knows nothing about files.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

from ..errors import UserError
from .language_model import BEGIN, END, NEVER, RESERVED, UNKNOWN, NgramModel

Ngram = tuple[str, ...]
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)


def build_ngram(sentences: Iterable[Sequence[str]], order: int = 3) -> NgramModel:
    """Return the model of `sentences`, of which each is a list of words without <s> and </s>.

    The probability of a word after a context is its discounted share of what followed the context, and the discounts' sum times the
    probability after the shorter context (section 3 of the technical report TR-10-98, the equations of "modified Kneser-Ney"). Below the
    highest order a count is the number of different words seen before the n-gram, but for n-grams at the beginning of a sentence, before
    which is nothing, how often they were seen. Single words are interpolated with 1 over the size of the vocabulary, </s> and <unk>
    included; that share is all that <unk> has. Of what the text does not allow to estimate (see `discounts_of`), fixed values stand in.

    Args:
        sentences: any number of lists of words; an empty one counts as a sentence that ends at once.
        order: words of the longest n-gram, at least 1.

    Raises:
        UserError: there are no sentences, one is a text instead of a list of words, the order is below 1, or a word is empty, has white
            space or is one of <s>, </s> and <unk>.
    """
    if order < 1:
        raise UserError(f"The order is {order}; give the number of words of the longest n-gram, at least 1.")
    counts = _counts(sentences, order)
    _check_words(ngram[0] for ngram in counts[0])
    below: dict[Ngram, float] = {(): 1 / (len(counts[0]) + 1)}  # one more for <unk>
    log_probabilities: dict[Ngram, float] = {(BEGIN,): NEVER}
    back_offs: dict[Ngram, float] = {}
    for of_order in counts:
        discounts = discounts_of(of_order.values())
        totals, left = _totals(of_order, discounts)
        below = {
            ngram: (count - discounts[min(count, 3) - 1]) / totals[ngram[:-1]] + left[ngram[:-1]] * below[ngram[1:]]
            for ngram, count in of_order.items()
        }
        if of_order is counts[0]:
            below[(UNKNOWN,)] = left[()] / (len(counts[0]) + 1)
        log_probabilities.update((ngram, math.log(probability)) for ngram, probability in below.items())
        back_offs.update((context, math.log(share)) for context, share in left.items() if context)
    return NgramModel(order, log_probabilities, back_offs)


def discounts_of(counts: Collection[int]) -> tuple[float, float, float]:
    """What is taken from n-grams counted once, twice and more often, in counts: D1, D2 and D3+ (Chen and Goodman, 1998, equation 26).

    They are estimated from how many n-grams have each count up to 4. In a small text these numbers may be zero, or give a discount
    that is not above 0 or is above the count itself; then 0.5, 1 and 1.5 are taken, as KenLM does when told to fall back.
    """
    of_count = Counter(count for count in counts if count <= 4)
    if len(of_count) < 4:
        return FALLBACK_DISCOUNTS
    share = of_count[1] / (of_count[1] + 2 * of_count[2])
    first, second, third = (count - (count + 1) * share * of_count[count + 1] / of_count[count] for count in (1, 2, 3))
    return (first, second, third) if 0 < first <= 1 and 0 < second <= 2 and 0 < third <= 3 else FALLBACK_DISCOUNTS


def _counts(sentences: Iterable[Sequence[str]], order: int) -> list[Counter[Ngram]]:
    """The counts of Kneser-Ney of each order, 1 first; <s> alone is not among them, for it follows nothing."""
    longest: Counter[Ngram] = Counter()
    beginnings: Counter[Ngram] = Counter()
    for number, sentence in enumerate(sentences, start=1):
        _check_sentence(sentence, number)
        words = (BEGIN, *sentence, END)
        longest.update(zip(*(words[first:] for first in range(order)), strict=False))
        beginnings.update(words[:length] for length in range(1, min(order, len(words) + 1)))
    if not beginnings and not longest:
        raise UserError("There are no sentences to build a language model from; give at least one.")
    counts = [longest]
    for length in range(order - 1, 0, -1):
        shorter = Counter(ngram[1:] for ngram in counts[0])
        shorter.update({ngram: count for ngram, count in beginnings.items() if len(ngram) == length})
        counts.insert(0, shorter)
    counts[0].pop((BEGIN,), None)
    return counts


def _totals(counts: Counter[Ngram], discounts: tuple[float, float, float]) -> tuple[dict[Ngram, int], dict[Ngram, float]]:
    """Of each context the sum of the counts after it, and the share, above 0, that the discounts leave to shorter contexts."""
    totals: dict[Ngram, int] = defaultdict(int)
    taken: dict[Ngram, float] = defaultdict(float)
    for ngram, count in counts.items():
        totals[ngram[:-1]] += count
        taken[ngram[:-1]] += discounts[min(count, 3) - 1]
    return totals, {context: taken[context] / total for context, total in totals.items()}


def _check_sentence(sentence: Sequence[str], number: int) -> None:
    """Raise `UserError` for a text that is not cut into words, and for the words whose meaning is fixed."""
    if isinstance(sentence, str):
        raise UserError(f"Sentence {number} is the text {sentence[:40]!r}; give a list of its words, such as text.split().")
    if not RESERVED.isdisjoint(sentence):
        raise UserError(f"Sentence {number} has one of {', '.join(sorted(RESERVED))} as a word; leave them out, the model adds them itself.")


def _check_words(words: Iterable[str]) -> None:
    for word in words:
        if word.split() != [word]:
            raise UserError(f"The sentences have the word {word!r}; a word must not be empty or have white space, for ARPA files could not hold it.")
