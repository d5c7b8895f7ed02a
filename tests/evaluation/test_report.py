"""The report of the worst and best rows."""

import pytest

from hflab.errors import UserError
from hflab.evaluation.report import ROWS_SHOWN, Evaluated, EvaluatedRow, write_report
from hflab.evaluation.task_figures import show_figure, task_figures
from hflab.hub.task_wording import WORDING
from hflab.hub.usage import usage_code
from hflab.recipe import parse_recipe
from hflab.training.tasks import TASKS


def recipe_of(task, **processor):
    return parse_recipe({"task": task, "processor": processor, "model": {"family": "recurrent"}, "training": {"num_steps": 1}})


METRICS = task_figures(recipe_of("text_classification")).metrics


def test_rows_stand_by_their_error_and_markdown_in_them_is_shown(tmp_path):
    rows = [EvaluatedRow(f"text {number} | <b>", f"p{number}", "*e*", number / 10) for number in range(50)]
    figures = dict.fromkeys(METRICS, 0.25)
    text = write_report(tmp_path / "new" / "report.md", "a_model", Evaluated(figures, rows, "nats"), METRICS).read_text(encoding="utf-8")
    worst, best = text.split("## The 20 worst rows")[1].split("## The 20 best rows")
    assert [line.split(" | ")[2] for line in worst.splitlines() if line.startswith("| 4.")] == [f"p{number}" for number in range(49, 39, -1)]
    assert best.index("p0 ") < best.index("p1 ") < best.index("p19 ")
    assert "p20 " not in best
    assert r"text 49 \| \<b\>" in worst
    assert r"\*e\*" in worst
    assert text.count("0.2500") == len(METRICS)
    assert text.startswith("# a\\_model\n")


def test_few_rows_are_all_shown_and_long_ones_cut(tmp_path):
    text = write_report(tmp_path / "report.md", "m", Evaluated({}, [EvaluatedRow("x" * 5000, "y", "z", 1.0)], "nats"), METRICS).read_text("utf-8")
    assert "## The 1 worst rows" in text
    assert len(text) < 1500
    assert ROWS_SHOWN == 20


def test_no_rows_and_no_place_are_refused(tmp_path):
    with pytest.raises(UserError, match="no rows"):
        write_report(tmp_path / "report.md", "m", Evaluated({}), METRICS)
    with pytest.raises(UserError, match="another --report"):
        write_report(tmp_path, "m", Evaluated({}, [EvaluatedRow("x", "y", "z", 1.0)]), METRICS)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_figures_words_and_a_usage(task):
    shown = task_figures(recipe_of(task))
    assert {shown.headline, shown.watched, "loss"} <= set(shown.metrics)
    better, worse = (1.0, 2.0) if shown.metrics[shown.watched].direction == "lower" else (2.0, 1.0)
    assert shown.is_better(better, worse)
    assert not shown.is_better(worse, better)
    assert not shown.is_better(worse, worse)
    assert WORDING[task].title
    compile(usage_code(task, "a/model", 'it\'s "quoted"'), "usage", "exec")


def test_symbols_and_text_have_their_own_figures():
    assert task_figures(recipe_of("seq2seq", tokenizer="symbols")).headline == "sequence_error_rate"
    assert set(task_figures(recipe_of("seq2seq", tokenizer="byte_bpe")).metrics) >= {"bleu", "chrf", "exact_match", "loss"}


@pytest.mark.parametrize(("name", "value", "expected"), [("accuracy", 0.5, "50.0 % of the rows"), ("f1", 0.25, "0.250 (mean over classes)")])
def test_figures_in_prose(name, value, expected):
    assert show_figure(value, METRICS[name]) == expected
