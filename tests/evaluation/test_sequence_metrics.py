import math
import random
import sys

import pytest

from hflab.errors import UserError
from hflab.evaluation.edit_distance import edit_distance
from hflab.evaluation.sequence_metrics import SEQUENCE_METRICS, SequenceOutputs, signatures

WORDS = ["the", "a", "cat", "dog", "sat", "stood", "on", "under", "mat", "table", "quickly", ",", "."]


def sentence(generator, longest=12):
    return " ".join(generator.choices(WORDS, k=generator.randint(1, longest)))


@pytest.fixture
def made():
    """Sixty predictions near their references, one to three of them each."""
    generator = random.Random(5)
    references = [[sentence(generator) for _ in range(generator.randint(1, 3))] for _ in range(60)]
    references[0] = [references[0][0]]
    predictions = [" ".join(word for word in allowed[-1].split() if generator.random() < 0.8) for allowed in references]
    return SequenceOutputs(predictions, references)


def figure(name, predictions, references, **keys):
    return SEQUENCE_METRICS[name].compute(SequenceOutputs(predictions, references, **keys))


def test_bleu_and_chrf_of_one_reference_are_sacrebleus(made):
    sacrebleu = pytest.importorskip("sacrebleu")
    first = [allowed[0] for allowed in made.references]
    outputs = SequenceOutputs(made.predictions, [[reference] for reference in first])
    bleu, chrf = (SEQUENCE_METRICS[name].compute(outputs) for name in ("bleu", "chrf"))
    assert bleu == sacrebleu.corpus_bleu(made.predictions, [first]).score
    assert chrf == sacrebleu.corpus_chrf(made.predictions, [first]).score
    assert 0 < bleu < 100
    assert 0 < chrf < 100


def test_bleu_takes_the_best_of_all_references_whatever_their_number(made):
    """Against counts by hand: clipped n-grams over all references, the closest length, brevity penalty."""
    pytest.importorskip("sacrebleu")

    def ngrams(words, n):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        return {gram: grams.count(gram) for gram in grams}

    right, there, length, closest = [0] * 4, [0] * 4, 0, 0
    for prediction, allowed in zip(made.predictions, made.references, strict=True):
        words, references = prediction.split(), [reference.split() for reference in allowed]
        length += len(words)
        closest += min((abs(len(reference) - len(words)), len(reference)) for reference in references)[1]
        for n in range(1, 5):
            for gram, count in ngrams(words, n).items():
                right[n - 1] += min(count, max(ngrams(reference, n).get(gram, 0) for reference in references))
                there[n - 1] += count
    mean = math.exp(sum(math.log(a / b) for a, b in zip(right, there, strict=True)) / 4)
    assert SEQUENCE_METRICS["bleu"].compute(made) == pytest.approx(100 * mean * min(1, math.exp(1 - closest / length)), rel=1e-9)


def test_chinese_is_cut_as_chinese():
    sacrebleu = pytest.importorskip("sacrebleu")
    predictions, references = ["我爱机器和学习的人", "今天天气很好啊"], [["我爱机器和学习"], ["今天天气很好"]]
    expected = sacrebleu.corpus_bleu(predictions, [[one for (one,) in references]], tokenize="zh").score
    assert figure("bleu", predictions, references, target_language="zh") == expected > 10
    assert figure("bleu", predictions, references) < 1  # as two words


def test_signatures_say_version_tokenisation_and_references(made):
    sacrebleu = pytest.importorskip("sacrebleu")
    found = signatures(made)
    assert set(found) == {"bleu", "chrf"}
    for signature in found.values():
        assert f"version:{sacrebleu.__version__}" in signature
        assert "nrefs:var" in signature
    assert "tok:13a" in found["bleu"]
    assert "tok:zh" in signatures(SequenceOutputs(["我"], [["我"]], target_language="zh"))["bleu"]


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    for name in ("bleu", "chrf"):
        with pytest.raises(UserError, match=r"pip install 'hflab\[metrics\]'"):
            figure(name, ["a"], [["a"]])


def test_error_rates_are_those_of_the_nearest_reference(made):
    by_symbol, by_character = [], []
    for prediction, allowed in zip(made.predictions, made.references, strict=True):
        for rows, cut in ((by_symbol, str.split), (by_character, list)):
            rows.append(min((edit_distance(cut(prediction), cut(reference)), -len(cut(reference))) for reference in allowed))
    for name, rows in {"symbol_error_rate": by_symbol, "character_error_rate": by_character}.items():
        expected = sum(distance for distance, _ in rows) / -sum(length for _, length in rows)
        assert SEQUENCE_METRICS[name].compute(made) == pytest.approx(expected, rel=1e-12)


def test_phonemes_of_two_pronunciations():
    outputs = SequenceOutputs(["AH B", "K AE  T", "D"], [["AH B IY", "AE B IY Z"], ["K AE T"], ["D AO G"]])
    figures = {name: metric.compute(outputs) for name, metric in SEQUENCE_METRICS.items() if name not in {"bleu", "chrf"}}
    assert figures["exact_match"] == pytest.approx(1 / 3)  # two spaces separate as one does
    assert figures["sequence_error_rate"] == pytest.approx(2 / 3)
    assert figures["symbol_error_rate"] == pytest.approx((1 + 0 + 2) / (3 + 3 + 3))
    assert figures["character_error_rate"] == pytest.approx((3 + 0 + 5) / (7 + 6 + 6))


@pytest.mark.parametrize("name", SEQUENCE_METRICS)
def test_metric_says_its_name_unit_and_direction(name):
    if name in {"bleu", "chrf"}:
        pytest.importorskip("sacrebleu")
    metric = SEQUENCE_METRICS[name]
    assert metric.name == name
    assert metric.unit
    right, wrong = "the cat sat on the mat", "a dog"
    lower = figure(name, [right], [[right]]) < figure(name, [wrong], [[right]])
    assert metric.direction == ("lower" if lower else "higher")


def test_a_prediction_may_be_empty_and_longer_than_its_reference():
    assert figure("symbol_error_rate", [""], [["a b"]]) == 1
    assert figure("symbol_error_rate", ["a b c d e"], [["a b"]]) == 1.5
    assert math.isnan(figure("symbol_error_rate", ["a"], [[" "]]))
    assert figure("exact_match", [" "], [[""]]) == 1


@pytest.mark.parametrize(
    ("predictions", "references", "message"), [([], [], "0 predictions"), (["a"], [], "0 rows"), (["a", "b"], [["a"], []], "Row 1")]
)
def test_rows_that_do_not_fit_are_refused(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        SequenceOutputs(predictions, references)
