import math

import pytest

from hflab.evaluation.metrics import METRICS, TextTotals

TOTALS = TextTotals(nats=80 * math.log(2), num_tokens=20, num_characters=40, num_bytes=50)
EXPECTED = {
    "loss": 4 * math.log(2),
    "perplexity": 16.0,
    "nats_per_character": 2 * math.log(2),
    "bits_per_character": 2.0,
    "bits_per_byte": 1.6,
}


@pytest.mark.parametrize("name", METRICS)
def test_figure_of_a_text_of_known_probability(name):
    assert METRICS[name].compute(TOTALS) == pytest.approx(EXPECTED[name], rel=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_metric_says_its_name_unit_and_direction(name):
    metric = METRICS[name]
    assert metric.name == name
    assert metric.unit
    better, worse = TextTotals(1.0, 10, 10, 10), TextTotals(2.0, 10, 10, 10)
    lower = metric.compute(better) < metric.compute(worse)
    assert metric.direction == ("lower" if lower else "higher")


def test_perplexity_beyond_a_float_is_infinite():
    assert METRICS["perplexity"].compute(TextTotals(nats=1000.0, num_tokens=1, num_characters=1, num_bytes=1)) == math.inf


@pytest.mark.parametrize("name", ["nats_per_character", "bits_per_character", "bits_per_byte"])
def test_text_without_characters_has_no_figure_per_character(name):
    assert math.isnan(METRICS[name].compute(TextTotals(nats=1.0, num_tokens=1, num_characters=0, num_bytes=0)))
