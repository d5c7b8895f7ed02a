"""Curves, half-lives, intervals and verdicts follow from numbers by their stated rules, and from nothing else."""

import numpy as np
import pytest
from scipy import stats

from hflab.laboratory.gradient_claims import CLAIMS, FAILS, HOLDS, PARTLY, UNDECIDED, judge_claims, short
from hflab.laboratory.gradient_figures import Curve, MeasuredSquares, ModelGradients, Stage, curve_by_distance, map_rows, pooled_map
from hflab.laboratory.intervals import geometric_interval, mean_interval


def falling(rate, steps=64, quantity="hidden"):
    """A gradient that falls to `rate` of itself with each step."""
    return Curve(quantity, 1, rate ** np.arange(steps), None, None)


def model(kind, *stages):
    return ModelGradients(kind, kind, kind, tuple(Stage(f"stage {number}", number, curves, ()) for number, curves in enumerate(stages)))


def verdicts(*models):
    return {(found.claim, found.stage): found.verdict for found in judge_claims(models)}


def test_a_half_life_is_that_of_the_curve():
    curve = falling(0.5 ** (1 / 7))
    assert curve.half_life == pytest.approx(7.0)
    assert curve.steps_to(0.1) == pytest.approx(7 * np.log2(10))
    assert curve.after(14) == pytest.approx(0.25)
    assert curve.after(64) is None
    assert falling(0.999).half_life is None
    assert falling(0.1).half_life == pytest.approx(np.log10(2))


def test_a_loss_counts_from_the_input_before_the_newest():
    curve = Curve("loss", None, np.array([50.0, 2.0, 1.0, 0.5]), None, None)
    assert curve.after(0) == 1.0
    assert curve.half_life == pytest.approx(1.0)
    assert curve.num_steps == 2
    assert curve.after(3) is None


def test_a_curve_is_the_root_of_the_mean_square_at_each_distance():
    squares = np.zeros((1, 2, 3))
    squares[0, 0, :2] = [4.0, 16.0]  # t = 1
    squares[0, 1] = [9.0, 36.0, 16.0]  # t = 2
    curve = curve_by_distance(MeasuredSquares("hidden", 1, (1, 2), [squares], None))
    assert curve.mean == pytest.approx(np.sqrt([16.0, (4 + 36) / 2, 9.0]))
    assert curve.low is None
    assert curve.relative_error is None


def test_intervals_are_over_seeds_where_there_are_several_and_over_rows_else():
    draw = np.random.default_rng(0)
    several = [draw.uniform(1, 2, (4, 1, 3)) for _ in range(5)]
    curve = curve_by_distance(MeasuredSquares("hidden", 1, (2,), several, None))
    logs = np.log(np.sqrt([squares.mean((0, 1))[::-1] for squares in several]))
    expected = stats.t.interval(0.95, 4, logs.mean(0), stats.sem(logs, axis=0))
    assert np.log(curve.low) == pytest.approx(expected[0], rel=1e-3)
    assert np.log(curve.high) == pytest.approx(expected[1], rel=1e-3)
    one = curve_by_distance(MeasuredSquares("hidden", 1, (2,), several[:1], None))
    assert one.mean == pytest.approx(np.exp(np.log(np.sqrt(several[0][:, 0, ::-1])).mean(0)))


def test_quantiles_are_students():
    for n in (2, 3, 11, 31):
        values = np.random.default_rng(n).normal(size=n)
        low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
        assert mean_interval(values)[1:] == pytest.approx((low, high), rel=1e-3)
    assert geometric_interval(np.array([[0.0], [0.0]])).mean[0] > 0  # nothing is no number


def test_the_error_of_probes_is_that_of_their_mean():
    draw = np.random.default_rng(1)
    truth, spread, rows = 4.0, 0.5, 3
    found = []
    for _ in range(3000):
        squares = truth + spread * draw.normal(size=(rows, 1, 1))
        found.append(float(np.sqrt(squares.mean())))
    error = np.full((rows, 1, 1), spread)
    measured = MeasuredSquares("hidden", 1, (0,), [np.full((rows, 1, 1), truth)], [error])
    assert curve_by_distance(measured).relative_error[0] * 2.0 == pytest.approx(np.std(found), rel=0.05)
    assert pooled_map(measured).standard_error[0, 0] == pytest.approx(np.std(found), rel=0.05)


def test_a_table_of_maps_has_a_row_for_each_k_up_to_t():
    squares = np.ones((2, 2, 4))
    stage = Stage("now", 3, (), (pooled_map(MeasuredSquares("hidden", 1, (1, 3), [squares], None)),))
    rows = map_rows([ModelGradients("m", "rnn", "", (stage,))])
    assert list(zip(rows["t"], rows["k"], strict=True)) == [(1, 0), (1, 1), (3, 0), (3, 1), (3, 2), (3, 3)]
    assert set(map(len, rows.values())) == {6}
    assert set(rows["value"]) == {1.0}


@pytest.mark.parametrize(
    ("rate", "steps", "verdict"),
    [(0.1 ** (1 / 10), 64, HOLDS), (0.1 ** (1 / 3), 64, FAILS), (0.1 ** (1 / 25), 64, FAILS), (0.999, 64, FAILS), (0.999, 12, UNDECIDED)],
)
def test_whether_an_rnn_forgets_after_about_ten_steps(rate, steps, verdict):
    assert verdicts(model("rnn", (falling(rate, steps),)))[(CLAIMS[0].text, "stage 0")] == verdict


@pytest.mark.parametrize(("rate", "steps", "verdict"), [(0.1 ** (1 / 52), 64, HOLDS), (0.5, 64, FAILS), (0.999, 40, UNDECIDED), (0.999, 64, HOLDS)])
def test_whether_nvsi_keeps_fifty(rate, steps, verdict):
    assert verdicts(model("nvsi", (falling(rate, steps),)))[(CLAIMS[1].text, "stage 0")] == verdict


@pytest.mark.parametrize(
    ("nvsi", "rnn", "verdict"), [(0.4, 0.001, HOLDS), (0.4, 0.5, PARTLY), (1e-9, 0.0012, PARTLY), (1e-9, 0.5, FAILS), (0.79, 0.0099, HOLDS)]
)
def test_whether_nvsi_beats_the_rnn(nvsi, rnn, verdict):
    found = verdicts(model("nvsi", (falling(nvsi ** (1 / 30)),)), model("rnn", (falling(rnn ** (1 / 30)),)))
    assert found[(CLAIMS[2].text, "stage 0")] == verdict


def test_without_an_rnn_the_comparison_cannot_be_judged():
    assert verdicts(model("nvsi", (falling(0.5),)))[(CLAIMS[2].text, "stage 0")] == UNDECIDED


@pytest.mark.parametrize(("cell", "rnn", "verdict"), [(0.2, 0.1, HOLDS), (0.05, 0.001, PARTLY), (0.05, 0.04, FAILS), (0.05, None, FAILS)])
def test_whether_the_cell_path_is_a_highway(cell, rnn, verdict):
    lstm = model("lstm", (falling(0.5), falling(cell ** (1 / 30), quantity="cell"), falling(0.5, quantity="path")))
    others = [] if rnn is None else [model("rnn", (falling(rnn ** (1 / 30)),))]
    assert verdicts(lstm, *others)[(CLAIMS[3].text, "stage 0")] == verdict


@pytest.mark.parametrize(("left", "verdict"), [(0.3, HOLDS), (0.01, FAILS)])
def test_whether_attention_links(left, verdict):
    assert verdicts(model("attention", (falling(left ** (1 / 30), quantity="loss"),)))[(CLAIMS[4].text, "stage 0")] == verdict


def test_claims_are_judged_at_the_beginning_and_at_the_end():
    found = verdicts(model("rnn", (falling(0.8),), (falling(0.7),), (falling(0.1),)))
    assert found == {(CLAIMS[0].text, "stage 0"): HOLDS, (CLAIMS[0].text, "stage 2"): FAILS}
    assert judge_claims([model("other", (falling(0.5, quantity="loss"),))]) == ()


@pytest.mark.parametrize(("value", "text"), [(None, "unknown"), (0.0, "0"), (0.41, "0.41"), (1.26e-5, "1.3e-05"), (12.4, "12"), (0.001, "0.001")])
def test_numbers_are_short(value, text):
    assert short(value) == text
