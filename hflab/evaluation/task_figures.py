"""Which figures each task is measured by: the ones an evaluation gives, the headline, and the one that early stopping watches.

    shown = task_figures(recipe)
    shown.metrics[shown.headline].unit

A new task is an entry in `_TASK_FIGURES`. This module knows the names of tasks and the figures, nothing about models or training.
"""

from dataclasses import dataclass
from typing import Any

from ..recipe import Recipe
from .classification_metrics import CLASSIFICATION_METRICS
from .contrastive_metrics import CONTRASTIVE_METRICS
from .masked_metrics import MASKED_METRICS
from .metrics import METRICS, Metric
from .sequence_evaluator import TargetLoss
from .sequence_metrics import SEQUENCE_METRICS
from .speech_evaluator import LabelLoss
from .speech_metrics import SPEECH_METRICS

SYMBOL_FIGURES = ("sequence_error_rate", "exact_match", "symbol_error_rate")
TEXT_FIGURES = ("bleu", "chrf", "exact_match", "character_error_rate")


@dataclass(frozen=True)
class TaskFigures:
    """The figures of a task and their words."""

    metrics: dict[str, type[Metric[Any]]]
    """By name, in the order in which they are shown; all are in the figures of an evaluation."""
    headline: str
    """The figure that a card tells first and draws."""
    watched: str
    """The figure that early stopping and the choice of the best weights go by."""
    trained_on: str
    """What `tokens` of metrics.jsonl and run.json are, in the plural: the labels that losses are divided by."""
    counted: str
    """The count in the figures that says how much they are of, `num_…`."""

    def is_better(self, value: float, best: float) -> bool:
        """Whether `value` of the watched figure is better than `best`."""
        return value < best if self.metrics[self.watched].direction == "lower" else value > best


def task_figures(recipe: Recipe) -> TaskFigures:
    """The figures of the recipe's task. Targets of sequence to sequence that are symbols (phonemes) have others than text."""
    name = recipe.task
    if name == "seq2seq":
        name = "symbols" if writes_symbols(recipe) else "text"
    return _TASK_FIGURES[name]


def writes_symbols(recipe: Recipe) -> bool:
    """Whether the targets of sequence to sequence are symbols that white space separates, such as phonemes, and not text."""
    return recipe.processor.tokenizer == "symbols" or recipe.data.source == "cmudict"


def show_figure(value: float, metric: type[Metric[Any]]) -> str:
    """A figure with its unit, as prose has it: shares as percentages."""
    if metric.unit.startswith("share of "):
        return f"{100 * value:.1f} % of the {metric.unit.removeprefix('share of ')}"
    return f"{value:.3f} ({metric.unit})" if metric.unit.startswith("mean ") else f"{value:.3f} {metric.unit}"


def _sequences(names: tuple[str, ...], headline: str) -> TaskFigures:
    metrics: dict[str, type[Metric[Any]]] = {"loss": TargetLoss, **{name: SEQUENCE_METRICS[name] for name in names}}
    return TaskFigures(metrics, headline, watched=headline, trained_on="target tokens", counted="num_rows")


_CLASSES: dict[str, type[Metric[Any]]] = dict(CLASSIFICATION_METRICS)
_TASK_FIGURES: dict[str, TaskFigures] = {
    "causal_lm": TaskFigures(dict(METRICS), "bits_per_character", watched="loss", trained_on="tokens", counted="num_tokens"),
    "symbols": _sequences(SYMBOL_FIGURES, "sequence_error_rate"),
    "text": _sequences(TEXT_FIGURES, "chrf"),
    "text_classification": TaskFigures(_CLASSES, "accuracy", watched="loss", trained_on="texts", counted="num_rows"),
    "token_classification": TaskFigures(_CLASSES, "f1", watched="loss", trained_on="labelled words", counted="num_labels"),
    "speech_recognition": TaskFigures(
        {"loss": LabelLoss, **SPEECH_METRICS}, "word_error_rate", watched="word_error_rate", trained_on="characters", counted="num_words"
    ),
    "speech_pretraining": TaskFigures(
        dict(CONTRASTIVE_METRICS), "contrastive_accuracy", watched="contrastive_accuracy", trained_on="hidden frames", counted="num_frames"
    ),
    "masked_lm": TaskFigures(dict(MASKED_METRICS), "masked_lm_loss", watched="loss", trained_on="masked tokens", counted="num_tokens"),
}
