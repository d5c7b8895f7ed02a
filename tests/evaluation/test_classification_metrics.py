import itertools
import math

import numpy as np
import pytest

from hflab.evaluation.classification_metrics import CLASSIFICATION_METRICS, ClassOutputs, confusion_matrix, per_class

SIZES = [(50, 2, 0), (60, 3, 1), (400, 7, 2), (9, 5, 3)]


def made(num_rows, num_classes, seed, digits=9):
    """Rows of a classifier that is often right; few digits make ties."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(num_rows) % num_classes)
    logits = generator.normal(size=(num_rows, num_classes)) + 1.5 * np.eye(num_classes)[labels]
    logits = logits.round(digits)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return ClassOutputs(log_probabilities.round(digits), labels, [f"class {number}" for number in range(num_classes)])


def figure(name, outputs):
    return CLASSIFICATION_METRICS[name].compute(outputs)


@pytest.mark.parametrize("digits", [9, 1])
@pytest.mark.parametrize(("num_rows", "num_classes", "seed"), SIZES)
def test_figures_are_scikit_learns(num_rows, num_classes, seed, digits):
    metrics = pytest.importorskip("sklearn.metrics")
    outputs = made(num_rows, num_classes, seed, digits)
    labels, predictions = outputs.labels, outputs.predictions
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(labels, predictions, average="macro", zero_division=0)
    expected = {"accuracy": metrics.accuracy_score(labels, predictions), "precision": precision, "recall": recall, "f1": f1}
    for name, value in expected.items():
        assert figure(name, outputs) == pytest.approx(value, rel=1e-12)
    assert (confusion_matrix(outputs) == metrics.confusion_matrix(labels, predictions, labels=range(num_classes))).all()
    rates = metrics.precision_recall_fscore_support(labels, predictions, labels=range(num_classes), zero_division=0)
    found = per_class(outputs)
    for number, name in enumerate(outputs.names):
        one = found[name]
        assert (one.precision, one.recall, one.f1, one.num_rows) == pytest.approx([values[number] for values in rates], rel=1e-12)
        assert one.auc == pytest.approx(metrics.roc_auc_score(labels == number, outputs.log_probabilities[:, number]), rel=1e-12)


@pytest.mark.parametrize(("num_rows", "num_classes", "seed"), SIZES)
def test_loss_and_auc_are_scikit_learns(num_rows, num_classes, seed):
    metrics = pytest.importorskip("sklearn.metrics")
    outputs = made(num_rows, num_classes, seed)
    probabilities = np.exp(outputs.log_probabilities)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert figure("loss", outputs) == pytest.approx(metrics.log_loss(outputs.labels, probabilities, labels=range(num_classes)), rel=1e-6)
    given = probabilities[:, 1] if num_classes == 2 else probabilities
    assert figure("auc", outputs) == pytest.approx(metrics.roc_auc_score(outputs.labels, given, multi_class="ovr"), rel=1e-12)


def test_auc_is_the_share_of_pairs_in_order():
    outputs = made(40, 2, 5, digits=1)
    scores = outputs.log_probabilities[:, 1]
    pairs = list(itertools.product(scores[outputs.labels == 1], scores[outputs.labels == 0]))
    assert any(a == b for a, b in pairs)
    assert figure("auc", outputs) == pytest.approx(sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs), rel=1e-12)


def test_rows_without_a_label_are_left_out():
    outputs = made(60, 3, 1)
    scores = np.concatenate([outputs.log_probabilities, np.full((5, 3), np.nan)])
    padded = ClassOutputs(scores, np.concatenate([outputs.labels, np.full(5, -100)]), outputs.names)
    assert {name: figure(name, padded) for name in CLASSIFICATION_METRICS} == {name: figure(name, outputs) for name in CLASSIFICATION_METRICS}


def test_classes_that_never_occur_do_not_count_but_wrong_guesses_of_them_do():
    right, wrong = np.log([0.6, 0.2, 0.1, 0.1]), np.log([0.1, 0.2, 0.6, 0.1])
    outputs = ClassOutputs(np.stack([right, right, wrong]), np.array([0, 0, 1]), ["a", "b", "c", "d"])
    assert figure("recall", outputs) == pytest.approx((1 + 0 + 0) / 3)  # a, b and the guessed c; not d
    assert per_class(outputs)["d"].f1 == 0
    assert math.isnan(per_class(outputs)["d"].auc)
    assert not math.isnan(figure("auc", outputs))
    assert math.isnan(figure("auc", ClassOutputs(np.stack([right]), np.array([0]), ["a", "b", "c", "d"])))


@pytest.mark.parametrize("name", CLASSIFICATION_METRICS)
def test_metric_says_its_name_unit_and_direction(name):
    metric = CLASSIFICATION_METRICS[name]
    assert metric.name == name
    assert metric.unit
    labels = np.array([0, 1, 0, 1])
    good = np.log(np.where(np.eye(2, dtype=bool)[labels], 0.9, 0.1))
    lower = figure(name, ClassOutputs(good, labels, ["a", "b"])) < figure(name, ClassOutputs(good[::-1], labels, ["a", "b"]))
    assert metric.direction == ("lower" if lower else "higher")


BAD = [
    ((3, 2), [0, 1], "log_probabilities"),
    ((2, 3), [0, 1], "2 names"),
    ((2, 2), [0, 2], "Labels from 0 to 2"),
    ((2, 2), [-1, 0], "Labels from -1"),
    ((2, 2), [-100, -100], "No row has a label"),
]


@pytest.mark.parametrize(("shape", "labels", "message"), BAD)
def test_rows_that_do_not_fit_are_refused(shape, labels, message):
    with pytest.raises(ValueError, match=message):
        ClassOutputs(np.zeros(shape), np.array(labels), ["a", "b"])


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        ClassOutputs(np.array([[np.nan, 0.0]]), np.array([0]), ["a", "b"])
