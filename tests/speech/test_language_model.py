import gzip
import math
import random
import sys
from collections import Counter

import pytest

from hflab.errors import UserError
from hflab.speech.kneser_ney import FALLBACK_DISCOUNTS, build_ngram, discounts_of
from hflab.speech.language_model import KenlmModel, NgramModel, load_language_model, perplexity, read_arpa, write_arpa

ARPA = """\
made by hand

\\data\\
ngram 1=5
ngram 2=3
ngram 3=1

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.3
-0.5\t</s>
-0.7\ta\t-0.2
-0.9\tb\t-0.1

\\2-grams:
-0.2\t<s> a\t-0.4
-0.4\ta </s>
-0.6\ta b\t-0.05

\\3-grams:
-0.1\t<s> a b

\\end\\
"""


def some_sentences(num_sentences, num_words, seed=0):
    """Sentences of words of which a few are much more frequent than the others."""
    generator = random.Random(seed)
    words = [f"w{index}" for index in range(num_words)]
    weights = [1 / (index + 1) for index in range(num_words)]
    return [generator.choices(words, weights, k=generator.randint(0, 8)) for _ in range(num_sentences)]


def log_10_of(model, sentence):
    """Logarithms to base 10 of each word and of the end."""
    state, found = model.begin(), []
    for word in sentence:
        log_probability, state = model.score(state, word)
        found.append(log_probability / math.log(10))
    return [*found, model.finish(state) / math.log(10)]


def kneser_ney_by_definition(sentences, order, context, word):
    """Interpolated modified Kneser-Ney straight from its equations, counting anew for every question."""

    def windows(length):
        for sentence in sentences:
            words = ("<s>", *sentence, "</s>")
            yield from (words[first : first + length] for first in range(len(words) - length + 1))

    def counts(length):
        if length == order:
            found = Counter(windows(length))
        else:
            found = Counter(longer[1:] for longer in set(windows(length + 1)))
            found.update(window for window in windows(length) if window[0] == "<s>")
        return Counter({ngram: count for ngram, count in found.items() if ngram != ("<s>",)})

    def probability(context, word):
        if context is None:
            return 1 / (1 + len(counts(1)))
        table = counts(len(context) + 1)
        discounts = discounts_of(table.values())
        after = {ngram: count for ngram, count in table.items() if ngram[:-1] == context}
        shorter = probability(context[1:] if context else None, word)
        if not after:
            return shorter
        count, total = table[(*context, word)], sum(after.values())
        share = sum(discounts[min(each, 3) - 1] for each in after.values()) / total
        return max(count - (discounts[min(count, 3) - 1] if count else 0), 0) / total + share * shorter

    return probability(tuple(context), word)


def test_scores_are_the_file_s_and_back_off_where_it_has_none(tmp_path):
    path = tmp_path / "hand.arpa"
    path.write_text(ARPA)
    model = read_arpa(path)
    assert model.order == 3
    assert log_10_of(model, ["a", "b"]) == pytest.approx([-0.2, -0.1, -0.05 - 0.1 - 0.5])
    assert log_10_of(model, ["a"]) == pytest.approx([-0.2, -0.4 - 0.4])  # <s> a -> a </s>
    assert log_10_of(model, ["b", "a", "b"]) == pytest.approx([-0.3 - 0.9, -0.1 - 0.7, -0.6, -0.05 - 0.1 - 0.5])
    assert log_10_of(model, ["zebra", "a"]) == pytest.approx([-0.3 - 1.0, -0.7, -0.4])
    assert model.knows("a")
    assert not any(map(model.knows, ["zebra", "<s>", "</s>", "<unk>"]))


def test_state_forgets_what_cannot_matter(tmp_path):
    path = tmp_path / "hand.arpa"
    path.write_text(ARPA)
    model = read_arpa(path)
    assert model.begin() == ("<s>",)
    assert model.score(model.begin(), "a").state == ("<s>", "a")
    assert model.score(("b",), "a").state == ("a",)
    assert model.score(("a",), "zebra").state == ()


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize(("num_sentences", "num_words"), [(1, 2), (4, 3), (300, 12)])
def test_probabilities_of_a_built_model_sum_to_1_in_every_context(order, num_sentences, num_words):
    model = build_ngram(some_sentences(num_sentences, num_words), order)
    contexts = [(), ("never",), ("never", "w0"), *model.back_offs]
    for context in contexts:
        state = ()
        for word in context:
            state = ("<s>",) if word == "<s>" else model.score(state, word).state
        assert sum(math.exp(model.score(state, word).log_probability) for word in model.vocabulary()) == pytest.approx(1, abs=1e-6)
    assert len(contexts) > 3 or order == 1


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("num_sentences", [3, 60])
def test_probabilities_are_those_of_the_equations(order, num_sentences):
    sentences = some_sentences(num_sentences, 5, seed=1)
    model = build_ngram(sentences, order)
    vocabulary = model.vocabulary()
    assert set(vocabulary) == {word for sentence in sentences for word in sentence} | {"</s>", "<unk>"}
    for context in [(), ("w0",), ("<s>", "w1"), ("w1", "w0"), ("w4", "w4")]:
        state = ()
        for word in context:
            state = model.begin() if word == "<s>" else model.score(state, word).state
        for word in vocabulary:
            expected = kneser_ney_by_definition(sentences, order, context[max(0, len(context) - order + 1) :], word)
            assert math.exp(model.score(state, word).log_probability) == pytest.approx(expected, rel=1e-9)


def test_bigrams_of_two_sentences_by_hand():
    model = build_ngram([["a", "b"], ["a"]], order=2)
    # Different words before: </s> 2 (after b and a), a 1, b 1; discounts 0.5 and 1, so (0.5 + 0.5 + 1) / 4 = 1/2 is left, shared by 4 words.
    a, b, end = 0.5 / 4 + 0.5 / 4, 0.5 / 4 + 0.5 / 4, 1 / 4 + 0.5 / 4
    assert math.exp(model.score((), "<unk>").log_probability) == pytest.approx(0.5 / 4)
    assert math.exp(model.score((), "a").log_probability) == pytest.approx(a)
    # After <s> twice a, of which 1 is taken; after a once b and once </s>, of which 0.5 each.
    assert math.exp(model.score(("<s>",), "a").log_probability) == pytest.approx(1 / 2 + 1 / 2 * a)
    assert math.exp(model.score(("a",), "b").log_probability) == pytest.approx(0.5 / 2 + 1 / 2 * b)
    assert math.exp(model.finish(("a",))) == pytest.approx(0.5 / 2 + 1 / 2 * end)


def test_discounts_are_estimated_and_fall_back_in_small_texts():
    counts = [1] * 10 + [2] * 5 + [3] * 3 + [4] * 2 + [9]
    assert discounts_of(counts) == pytest.approx((1 - 2 * 0.5 * 5 / 10, 2 - 3 * 0.5 * 3 / 5, 3 - 4 * 0.5 * 2 / 3))
    assert discounts_of([1, 1, 2, 3]) == FALLBACK_DISCOUNTS  # nothing has the count 4
    assert discounts_of([1, 2, 3] + [4] * 50) == FALLBACK_DISCOUNTS  # D3 would be far below 0


def test_perplexity_counts_words_and_ends(tmp_path):
    path = tmp_path / "hand.arpa"
    path.write_text(ARPA)
    model = read_arpa(path)
    assert perplexity(model, [["a", "b"], ["a"]]) == pytest.approx(10 ** ((0.2 + 0.1 + 0.65 + 0.2 + 0.8) / 5))
    even = build_ngram([["x"]], order=1)  # x and </s> once each, of which half is shared by three
    assert perplexity(even, [["x"]]) == pytest.approx(1 / (0.25 + 0.5 / 3))
    sentences = some_sentences(200, 10)
    assert perplexity(build_ngram(sentences, 3), sentences) < perplexity(build_ngram(sentences, 1), sentences) < 12
    with pytest.raises(UserError, match="no sentences"):
        perplexity(model, [])


@pytest.mark.parametrize("name", ["model.arpa", "model.arpa.gz"])
def test_written_model_is_read_as_it_was(tmp_path, name):
    sentences = [*some_sentences(50, 8), ["naïve", "我", "'s"]]
    model = build_ngram(sentences, 3)
    write_arpa(model, tmp_path / name)
    again = load_language_model(tmp_path / name)
    assert isinstance(again, NgramModel)
    assert again.log_probabilities == pytest.approx(model.log_probabilities, abs=1e-6)
    for sentence in sentences:
        assert log_10_of(again, [*sentence, "zebra"]) == pytest.approx(log_10_of(model, [*sentence, "zebra"]), abs=1e-5)
    write_arpa(again, tmp_path / f"again-{name}")
    assert (tmp_path / f"again-{name}").read_bytes() == (tmp_path / name).read_bytes()


def test_pruned_file_without_the_beginnings_of_its_ngrams(tmp_path):
    path = tmp_path / "pruned.arpa"
    path.write_text(ARPA.replace("ngram 2=3", "ngram 2=2").replace("-0.2\t<s> a\t-0.4\n", "").replace("-1.0\t<unk>\n", "").replace("1=5", "1=4"))
    model = read_arpa(path)
    assert log_10_of(model, ["a", "b", "q"]) == pytest.approx([-0.3 - 0.7, -0.1, -0.05 - 0.1 - 100, -0.5])


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("\\data\\", "data", "line 23: the file ends here"),
        ("ngram 2=3", "ngram 3=3", "line 5: .*'ngram 2=NUMBER' is due"),
        ("ngram 3=1", "ngram 3=one", "line 6: .*'ngram 3=NUMBER' is due"),
        ("ngram 2=3", "ngram 2=4", "line 20: there are 3 2-grams before it, but the head of the file says 4"),
        ("\\2-grams:", "\\3-grams:", "line 15: .*where .2-grams: is due"),
        ("-0.7\ta", "-0.7x\ta", "line 12: '-0.7x' is no logarithm"),
        ("-0.7\ta", "0.7\ta", "line 12: '0.7' is no logarithm of a probability: a number of at most 0"),
        ("-0.7\ta", "nan\ta", "line 12: 'nan' is no"),
        ("a\t-0.2", "a\tlow", "line 12: 'low' is no number"),
        ("a\t-0.2", "a\t-0.2\t-0.2", "line 12: it has 4 fields; due are a logarithm, 1 words, perhaps a back-off"),
        ("<s> a b", "a b", "line 21: it has 3 fields; due are a logarithm, 3 words"),
        ("-0.5\t</s>", "-0.5\tc", "no 1-gram </s>"),
        ("\\end\\\n", "", "line 22: the file ends here"),
        ("-0.9\tb", "-0.9\t\udcff", "line 13: the line is not UTF-8"),
    ],
)
def test_malformed_file_is_refused_with_the_line(tmp_path, before, after, message):
    path = tmp_path / "bad.arpa"
    assert before in ARPA
    path.write_bytes(ARPA.replace(before, after).encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=f"bad.arpa', {message}" if message.startswith("line") else message):
        read_arpa(path)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"none.arpa' cannot be opened: No such file"):
        read_arpa(tmp_path / "none.arpa")
    with pytest.raises(UserError, match="cannot be opened"):
        read_arpa(tmp_path)
    (tmp_path / "plain.arpa.gz").write_text(ARPA)
    with pytest.raises(UserError, match="compressed file cannot be read on"):
        read_arpa(tmp_path / "plain.arpa.gz")
    (tmp_path / "short.arpa.gz").write_bytes(gzip.compress(ARPA.encode())[:-20])
    with pytest.raises(UserError, match="compressed file cannot be read on"):
        read_arpa(tmp_path / "short.arpa.gz")
    with pytest.raises(UserError, match=r"rename it to end in one of: \.arpa, \.arpa\.gz, \.bin"):
        load_language_model(tmp_path / "model.txt")


@pytest.mark.parametrize(
    ("sentences", "order", "message"),
    [
        ([], 3, "no sentences"),
        ([["a"]], 0, "order is 0"),
        ([["a"], "the cat"], 3, "Sentence 2 is the text 'the cat'"),
        ([["a", "</s>", "b"]], 3, "Sentence 1 has one of </s>, <s>, <unk> as a word"),
        ([["a", "the cat"]], 3, "the word 'the cat'"),
        ([["a", ""]], 1, "the word ''"),
    ],
)
def test_text_that_no_model_can_be_built_from_is_refused(sentences, order, message):
    with pytest.raises(UserError, match=message):
        build_ngram(sentences, order)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_kenlm_reads_our_file_and_gives_our_scores(tmp_path, order):
    pytest.importorskip("kenlm")
    sentences = some_sentences(100, 10)
    model = build_ngram(sentences, order)
    write_arpa(model, tmp_path / "ours.arpa")
    theirs = KenlmModel(tmp_path / "ours.arpa")
    for sentence in [*some_sentences(30, 12, seed=5), ["w0", "zebra", "w1", "w0"]]:
        assert log_10_of(theirs, sentence) == pytest.approx(log_10_of(model, sentence), abs=1e-4)
    assert perplexity(theirs, sentences) == pytest.approx(perplexity(model, sentences), rel=1e-4)
    assert theirs.knows("w0")
    assert not any(map(theirs.knows, ["zebra", "<s>", "</s>", "<unk>"]))


def test_states_of_kenlm_are_equal_where_the_future_is(tmp_path):
    pytest.importorskip("kenlm")
    write_arpa(build_ngram(some_sentences(100, 10), 2), tmp_path / "ours.arpa")
    model = KenlmModel(tmp_path / "ours.arpa")
    once, again = (model.score(model.score(model.begin(), word).state, "w0").state for word in ("w1", "w2"))
    assert once == again
    assert len({once, again, model.begin()}) == 2
    (tmp_path / "bad.bin").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"bad.bin' cannot be read by KenLM"):
        load_language_model(tmp_path / "bad.bin")


def test_kenlm_s_absence_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kenlm", None)
    with pytest.raises(UserError, match="pip install ufal-kenlm"):
        load_language_model(tmp_path / "model.bin")
