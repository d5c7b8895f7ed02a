import itertools
import math
import random
import time
from functools import cache

import numpy as np
import pytest

from hflab.errors import UserError
from hflab.evaluation.edit_distance import edit_distance
from hflab.evaluation.metrics import Metric
from hflab.evaluation.speech_metrics import (
    SPEECH_METRICS,
    SpeechOutputs,
    WordErrorRate,
    align_words,
    bootstrap_interval,
    by_group,
    most_frequent,
    row_errors,
)
from hflab.speech.text_normalization import NORMALIZERS

WORDS = ["the", "a", "cat", "dog", "sat", "stood", "on", "under", "mat", "quickly"]


def heard(generator, words):
    """`words` with some of them replaced, missing or doubled."""
    kept = [generator.choice(WORDS) if generator.random() < 0.15 else word for word in words if generator.random() > 0.1]
    return [word for word in kept for _ in range(2 if generator.random() < 0.1 else 1)]


def made(num_rows=80, seed=3, **columns):
    generator = random.Random(seed)
    references = [generator.choices(WORDS, k=generator.randint(1, 15)) for _ in range(num_rows)]
    return SpeechOutputs([" ".join(heard(generator, words)) for words in references], [" ".join(words) for words in references], "none", **columns)


def figures(outputs):
    return {name: metric.compute(outputs) for name, metric in SPEECH_METRICS.items()}


def fewest_errors_most_substitutions(reference, hypothesis):
    """(errors, insertions and deletions, substitutions) of the best alignment, by the recursion of the definition."""

    @cache
    def best(i, j):
        if i == 0 or j == 0:
            return (i + j, i + j, 0)
        wrong = int(reference[i - 1] != hypothesis[j - 1])
        steps = [(best(i - 1, j - 1), (wrong, 0, wrong)), (best(i - 1, j), (1, 1, 0)), (best(i, j - 1), (1, 1, 0))]
        return min(tuple(a + b for a, b in zip(so_far, step, strict=True)) for so_far, step in steps)

    return best(len(reference), len(hypothesis))


@pytest.mark.parametrize("num_words", [1, 2, 3, 10])
@pytest.mark.parametrize("longest", [1, 4, 12])
def test_alignment_is_the_best_one_and_spells_both_texts(num_words, longest):
    generator = random.Random(100 * num_words + longest)
    for _ in range(60):
        reference, hypothesis = (tuple(generator.choices(WORDS[:num_words], k=generator.randint(0, longest))) for _ in range(2))
        found = align_words(reference, hypothesis)
        assert tuple(pair.reference for pair in found.pairs if pair.reference is not None) == reference
        assert tuple(pair.hypothesis for pair in found.pairs if pair.hypothesis is not None) == hypothesis
        errors = found.substitutions + found.deletions + found.insertions
        assert (errors, found.deletions + found.insertions, found.substitutions) == fewest_errors_most_substitutions(reference, hypothesis)
        assert errors == edit_distance(reference, hypothesis)
        assert found.hits + found.substitutions + found.deletions == len(reference)
        for operation, said, word in found.pairs:
            expected = "insertion" if said is None else "deletion" if word is None else "hit" if said == word else "substitution"
            assert operation == expected


def test_alignment_by_hand():
    found = align_words(["the", "cat", "sat", "on", "the", "mat"], ["a", "cat", "on", "the", "blue", "mat"])
    assert [(pair.operation[0], pair.reference, pair.hypothesis) for pair in found.pairs] == [
        ("s", "the", "a"),
        ("h", "cat", "cat"),
        ("d", "sat", None),
        ("h", "on", "on"),
        ("h", "the", "the"),
        ("i", None, "blue"),
        ("h", "mat", "mat"),
    ]
    assert (found.hits, found.substitutions, found.deletions, found.insertions) == (4, 1, 1, 1)


def test_of_equally_good_alignments_the_one_with_substitutions_is_taken():
    swapped = align_words(["a", "b"], ["b", "a"])
    assert (swapped.substitutions, swapped.deletions, swapped.insertions) == (2, 0, 0)
    assert [pair.operation for pair in align_words(["a", "a"], ["a"]).pairs] == ["deletion", "hit"]  # words are matched from the end


def test_a_thousand_words_take_less_than_a_second():
    generator = random.Random(0)
    reference = generator.choices(WORDS, k=1000)
    hypothesis = heard(generator, reference)
    started = time.process_time()
    found = align_words(reference, hypothesis)
    assert time.process_time() - started < 1
    assert found.substitutions + found.deletions + found.insertions == edit_distance(reference, hypothesis)


@pytest.mark.parametrize("name", SPEECH_METRICS)
def test_metric_says_its_name_unit_and_direction(name):
    metric = SPEECH_METRICS[name]
    assert issubclass(metric, Metric)
    assert metric.name == name
    assert metric.unit
    assert metric.direction == "lower"
    right = SpeechOutputs(["the cat sat"], ["the cat sat"], "none")
    assert metric.compute(right) == 0


def test_rates_are_sums_over_the_corpus():
    outputs = SpeechOutputs(["a b c d e f g h x", "y", ""], ["a b c d e f g h i", "b", "a"], "none")
    found = figures(outputs)
    assert found["word_error_rate"] == pytest.approx(3 / 11)  # the mean of the rows would be (1/9 + 1 + 1) / 3
    assert found["substitution_rate"] == pytest.approx(2 / 11)
    assert found["deletion_rate"] == pytest.approx(1 / 11)
    assert found["insertion_rate"] == 0
    assert found["sentence_error_rate"] == 1
    assert found["character_error_rate"] == pytest.approx(3 / 19)
    assert row_errors(outputs).tolist() == pytest.approx([1 / 9, 1, 1])


def test_an_empty_reference_adds_insertions_and_no_length():
    found = figures(SpeechOutputs(["uh oh", "a b"], ["", "a b"], "none"))
    assert found["word_error_rate"] == found["insertion_rate"] == 1
    assert found["character_error_rate"] == pytest.approx(5 / 3)
    assert found["sentence_error_rate"] == 0.5
    nothing = figures(SpeechOutputs(["uh", ""], ["", "..."], "basic"))
    assert math.isnan(nothing["word_error_rate"])
    assert nothing["sentence_error_rate"] == 0.5
    assert row_errors(SpeechOutputs(["uh oh"], [""], "none")).tolist() == [2]


def test_the_parts_make_the_whole():
    found = figures(made())
    assert 0 < found["word_error_rate"] < 1
    parts = found["substitution_rate"] + found["deletion_rate"] + found["insertion_rate"]
    assert parts == pytest.approx(found["word_error_rate"], rel=1e-12)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_word_and_character_error_rate_are_jiwers(normalizer):
    jiwer = pytest.importorskip("jiwer")
    generator = random.Random(11)
    signs = ["Cat,", "DOG", "42", "R&B", "\u4eca\u5929", "it\u2019s", "na\u00efve!", "2nd", "5%"]
    references = [" ".join(generator.choices(signs, k=generator.randint(1, 12))) for _ in range(60)]
    predictions = [" ".join(heard(generator, reference.split())) for reference in references]
    outputs = SpeechOutputs(predictions, references, normalizer)
    text = NORMALIZERS[normalizer]
    cut = [[" ".join(text.words(one)) for one in column] for column in (references, predictions)]
    whole = [[text.normalize(one) for one in column] for column in (references, predictions)]
    assert figures(outputs)["word_error_rate"] == pytest.approx(jiwer.wer(*cut), rel=1e-12)
    assert figures(outputs)["character_error_rate"] == pytest.approx(jiwer.cer(*whole), rel=1e-12)


def test_characters_are_words_where_no_spaces_separate_them():
    found = figures(SpeechOutputs(["\u4eca\u5929 \u5929\u6c14"], ["\u4eca\u5929\u5929\u6c14\u597d\uff01"], "characters"))
    assert found["word_error_rate"] == found["character_error_rate"] == pytest.approx(1 / 5)


def by_resampling_rows(outputs, groups, seed, num_resamples):
    """Percentiles of word error rates of samples drawn row by row, without sums of groups."""
    generator = np.random.default_rng(seed)
    names = list(dict.fromkeys(groups))
    rows = {name: [row for row, group in enumerate(groups) if group == name] for name in names}
    errors, words = outputs.counts.word_errors, outputs.counts.words
    rates = []
    for _ in range(num_resamples):
        drawn = [row for number in generator.integers(len(names), size=len(names)) for row in rows[names[number]]]
        rates.append(errors[drawn].sum() / words[drawn].sum())
    return np.quantile(rates, [0.025, 0.975])


@pytest.mark.parametrize("by_speaker", [True, False])
def test_interval_is_that_of_samples_drawn_one_by_one(by_speaker):
    speakers = [f"speaker {row % 7}" for row in range(80)]
    outputs = made(speakers=speakers if by_speaker else None)
    found = bootstrap_interval(outputs, WordErrorRate, seed=4, num_resamples=300)
    expected = by_resampling_rows(outputs, speakers if by_speaker else range(80), 4, 300)
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=1e-12)
    assert (found.resampled, found.num_resampled) == (("speakers", 7) if by_speaker else ("rows", 80))
    assert found.low < WordErrorRate.compute(outputs) < found.high


def test_interval_of_many_rows_is_that_of_the_normal_distribution():
    """Rows of one word, wrong with probability 0.3: the rate's standard error is known."""
    generator = random.Random(1)
    outputs = SpeechOutputs(["x" if generator.random() < 0.3 else "a" for _ in range(2000)], ["a"] * 2000, "none")
    rate = WordErrorRate.compute(outputs)
    found = bootstrap_interval(outputs, WordErrorRate, seed=0, num_resamples=2000)
    assert found.high - found.low == pytest.approx(2 * 1.96 * math.sqrt(rate * (1 - rate) / 2000), rel=0.05)
    narrow = bootstrap_interval(outputs, WordErrorRate, seed=0, num_resamples=2000, level=0.5)
    assert found.low < narrow.low < rate < narrow.high < found.high


def test_speakers_unlike_each_other_widen_the_interval():
    references = ["a b c d"] * 100
    predictions = ["a b c d" if row % 10 < 5 else "x x x x" for row in range(100)]
    rows = bootstrap_interval(SpeechOutputs(predictions, references, "none"), WordErrorRate, seed=0)
    speakers = SpeechOutputs(predictions, references, "none", speakers=[str(row % 10) for row in range(100)])
    found = bootstrap_interval(speakers, WordErrorRate, seed=0)
    assert found.high - found.low > 2 * (rows.high - rows.low)
    alone = SpeechOutputs(predictions, references, "none", speakers=["anna"] * 100)
    assert bootstrap_interval(alone, WordErrorRate, seed=0) == rows


def test_interval_where_there_is_nothing_to_sample():
    one = bootstrap_interval(SpeechOutputs(["a"], ["b"], "none"), WordErrorRate, seed=0)
    empty = bootstrap_interval(SpeechOutputs(["a", ""], ["", ""], "none"), WordErrorRate, seed=0)
    assert all(math.isnan(bound) for bound in (*one[:2], *empty[:2]))
    some = bootstrap_interval(SpeechOutputs(["a", "b"], ["", "c"], "none"), WordErrorRate, seed=0)
    assert (some.low, some.high) == (1, 2)  # the sample of the empty reference alone has no rate
    for wrong in ({"num_resamples": 0}, {"level": 1.0}, {"level": 95}):
        with pytest.raises(ValueError, match="between 0 and 1"):
            bootstrap_interval(made(), WordErrorRate, seed=0, **wrong)


def test_groups_add_up_to_the_corpus():
    speakers = [f"s{row % 4}" for row in range(80)]
    outputs = made(seconds=[row / 10 for row in range(80)])
    found = by_group(outputs, speakers)
    assert {group.name for group in found} == set(speakers)
    assert sum(group.num_rows for group in found) == 80
    assert sum(group.num_words for group in found) == outputs.counts.words.sum()
    assert sum(group.substitutions + group.deletions + group.insertions for group in found) == outputs.counts.word_errors.sum()
    assert sum(group.seconds for group in found) == pytest.approx(316)
    for worse, better in itertools.pairwise(found):
        assert worse.word_error_rate >= better.word_error_rate
    for group in found:
        rows = [row for row in range(80) if speakers[row] == group.name]
        alone = SpeechOutputs([outputs.predictions[row] for row in rows], [outputs.references[row] for row in rows], "none")
        assert group.word_error_rate == WordErrorRate.compute(alone)


def test_groups_without_words_come_last_and_lengths_may_be_unknown():
    found = by_group(SpeechOutputs(["a", "b", "", "c"], ["", "b", "", "d"], "none"), ["silence", "y", "empty", "x"])
    assert [group.name for group in found] == ["x", "y", "empty", "silence"]
    assert found[-1].insertions == 1
    assert found[0].seconds is None
    with pytest.raises(ValueError, match="4 rows and 1 names"):
        by_group(SpeechOutputs(["a"] * 4, ["a"] * 4, "none"), ["x"])


def test_most_frequent_errors_in_a_fixed_order():
    outputs = SpeechOutputs(["a x", "a x", "b y", "c", "c d e", ""], ["a z", "a z", "b z", "c d", "c", "d"], "none")
    assert most_frequent(outputs, "substitution") == [("z", "x", 2), ("z", "y", 1)]
    assert most_frequent(outputs, "deletion") == [("d", None, 2)]
    assert most_frequent(outputs, "insertion") == [(None, "d", 1), (None, "e", 1)]
    assert most_frequent(outputs, "hit", most=1) == [("a", "a", 2)]
    with pytest.raises(UserError, match="Did you mean 'deletion'"):
        most_frequent(outputs, "deletions")


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="0 predictions"):
        SpeechOutputs([], [], "none")
    with pytest.raises(ValueError, match="2 predictions and 1 references"):
        SpeechOutputs(["a", "b"], ["a"], "none")
    for column in ("speakers", "conditions", "seconds"):
        with pytest.raises(ValueError, match=f"1 predictions and 2 {column}"):
            SpeechOutputs(["a"], ["a"], "none", **{column: [1, 2]})
    with pytest.raises(UserError, match=r"choose from: none, basic, english, characters\. Did you mean 'english'"):
        SpeechOutputs(["a"], ["a"], "englisch")
