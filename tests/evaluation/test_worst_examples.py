import numpy as np
import pytest

from hflab.evaluation.classification_metrics import ClassOutputs
from hflab.evaluation.sequence_metrics import SequenceOutputs
from hflab.evaluation.worst_examples import class_errors, sequence_errors, worst_and_best


def test_worst_and_best_are_in_order_and_ties_in_that_of_the_rows():
    worst, best = worst_and_best([0.5, 2.0, 0.0, 2.0, float("nan"), 0.0], 3)
    assert worst == [4, 1, 3]
    assert best == [2, 5, 0]
    assert worst_and_best([1.0, 2.0], 20) == ([1, 0], [0, 1])


def test_errors_of_sequences_are_edits_per_symbol_of_the_nearest_reference():
    outputs = SequenceOutputs(["AH B", "K AE T", "X", "Y"], [["AH B IY", "Z"], ["K AE T"], ["D AO G"], [""]])
    assert sequence_errors(outputs, by="symbols") == pytest.approx([1 / 3, 0, 1, 1])
    assert worst_and_best(sequence_errors(outputs, by="symbols"), 2) == ([2, 3], [1, 0])
    assert sequence_errors(SequenceOutputs(["abd"], [["abc"]])) == pytest.approx([1 / 3])
    with pytest.raises(ValueError, match="choose from: characters, symbols"):
        sequence_errors(outputs, by="words")


def test_the_surest_wrong_class_is_the_worst():
    scores = np.log(np.array([[0.9, 0.1], [0.4, 0.6], [0.01, 0.99], [0.99, 0.01]]))
    outputs = ClassOutputs(scores, np.array([0, 0, 0, 0]), ["a", "b"])
    assert worst_and_best(class_errors(outputs), 2) == ([2, 1], [3, 0])
