"""The metadata of a model card: the YAML head that the Hub reads, and the evaluation results beside it.

https://huggingface.co/docs/hub/model-cards#model-card-metadata
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml

from ..evaluation.metrics import METRICS
from ..recipe import Recipe

TASK_NAMES = {"causal_lm": ("text-generation", "Text Generation")}  # recipe's task: the Hub's pipeline tag and its title
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
HUB_METRIC = "bits_per_byte"  # the one figure that compares models across tokenizers and scripts
DIGITS = 6  # of a published figure


@dataclass(frozen=True)
class Evaluation:
    """The evaluation that a card reports."""

    split: str
    figures: dict[str, float]
    step: int | None  # optimizer steps before it; None: the last evaluation, of the model as published


def card_metadata(facts: dict[str, Any], recipe: Recipe, evaluation: Evaluation | None) -> ModelCardData:
    """Metadata of the card of a run, from its run.json, its recipe and its evaluation."""
    base = recipe.model.pretrained
    dataset = recipe.data.dataset if recipe.data.source == "hub" else None
    return ModelCardData(
        language=facts["data"]["language"],
        license=recipe.publish.license,
        library_name="transformers",
        pipeline_tag=TASK_NAMES[recipe.task][0],
        tags=_tags(recipe),
        datasets=[dataset] if dataset else None,
        base_model=base if base and is_hub_id(base) else None,
        model_name=facts["name"],
        eval_results=_results(facts, recipe, evaluation) or None,
    )


def is_hub_id(name: str) -> bool:
    """Whether `name` is the id of a Hub repository rather than a folder here."""
    return HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def _tags(recipe: Recipe) -> list[str]:
    cell = recipe.model.config.get("cell_type")
    return ["hflab", "language-model", *([recipe.model.family] if recipe.model.family else []), *([cell] if cell else [])]


def _results(facts: dict[str, Any], recipe: Recipe, evaluation: Evaluation | None) -> list[EvalResult]:
    """A result per finite figure."""
    if evaluation is None:
        return []
    data, (task, title) = recipe.data, TASK_NAMES[recipe.task]
    return [
        EvalResult(
            task_type=task,
            task_name=title,
            dataset_type=data.dataset or re.sub(r"\W+", "-", facts["data"]["name"].lower()).strip("-") or "text",
            dataset_name=facts["data"]["name"],
            dataset_config=data.config_name,
            dataset_split=evaluation.split,
            dataset_revision=data.revision,
            metric_type=name,
            metric_name=metric.unit if _words(name) == metric.unit else f"{_words(name)} ({metric.unit})",
            metric_value=round(value, DIGITS),
        )
        for name, metric in METRICS.items()
        if math.isfinite(value := evaluation.figures[name])
    ]


def _words(name: str) -> str:
    return name.replace("_", " ")


def hub_evaluation_entries(recipe: Recipe, evaluation: Evaluation | None) -> list[dict[str, Any]]:
    """Content of `.eval_results/*.yaml`, the Hub's newer form; empty unless the text is a Hub data set, which the form needs.

    https://huggingface.co/docs/hub/eval-results
    """
    if evaluation is None or recipe.data.source != "hub" or recipe.data.dataset is None:
        return []
    value = evaluation.figures[HUB_METRIC]
    entry = EvalResultEntry(
        dataset_id=recipe.data.dataset,
        task_id=recipe.data.config_name or "default",
        value=round(value, DIGITS),
        dataset_revision=recipe.data.revision,
        notes=f"{METRICS[HUB_METRIC].unit} of the {evaluation.split} split, lower is better; {evaluation.figures['num_tokens']:,} tokens",
    )
    return eval_result_entries_to_yaml([entry]) if math.isfinite(value) else []
