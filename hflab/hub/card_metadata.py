"""The metadata of a model card: the YAML head that the Hub reads, and the evaluation results beside it.

https://huggingface.co/docs/hub/model-cards#model-card-metadata
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml

from ..evaluation.task_figures import task_figures
from ..recipe import Recipe
from .task_wording import WORDING

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
HUB_METRICS = {"causal_lm": "bits_per_byte"}  # the one figure that compares models across tokenizers and scripts; of other tasks the headline
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
        pipeline_tag=hub_task(facts, recipe)[0],
        tags=_tags(recipe),
        datasets=[dataset] if dataset else None,
        metrics=list(task_figures(recipe).metrics) if evaluation else None,
        base_model=base if base and is_hub_id(base) else None,
        base_model_relation=_relation(recipe) if base and is_hub_id(base) else None,
        widget=[{"text": facts["prompt"]}] if facts.get("prompt") and not WORDING[recipe.task].hears else None,
        model_name=facts["name"],
        eval_results=_results(facts, recipe, evaluation) or None,
    )


def hub_task(facts: dict[str, Any], recipe: Recipe) -> tuple[str, str]:
    """The Hub's name and title of the task: from one language to another it is translation."""
    target = facts["data"].get("target_language")
    if recipe.task == "seq2seq" and target and target != facts["data"]["language"]:
        return "translation", "Translation"
    return WORDING[recipe.task].pipeline_tag, WORDING[recipe.task].title


def is_hub_id(name: str) -> bool:
    """Whether `name` is the id of a Hub repository rather than a folder here."""
    return HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def _relation(recipe: Recipe) -> str:
    """How the Hub says what was made of the base model."""
    lora = recipe.model.lora
    return "adapter" if lora is not None and not lora.merge else "finetune"


def _tags(recipe: Recipe) -> list[str]:
    cell = recipe.model.config.get("cell_type")
    return ["hflab", WORDING[recipe.task].tag, *([recipe.model.family] if recipe.model.family else []), *([cell] if cell else [])]


def _results(facts: dict[str, Any], recipe: Recipe, evaluation: Evaluation | None) -> list[EvalResult]:
    """A result per finite figure."""
    if evaluation is None:
        return []
    data, (task, title) = recipe.data, hub_task(facts, recipe)
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
        for name, metric in task_figures(recipe).metrics.items()
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
    shown = task_figures(recipe)
    name = HUB_METRICS.get(recipe.task, shown.headline)
    value, metric = evaluation.figures[name], shown.metrics[name]
    counted = f"{evaluation.figures[shown.counted]:,} {shown.counted.removeprefix('num_')}"
    entry = EvalResultEntry(
        dataset_id=recipe.data.dataset,
        task_id=recipe.data.config_name or "default",
        value=round(value, DIGITS),
        dataset_revision=recipe.data.revision,
        notes=f"{metric.unit} of the {evaluation.split} split, {metric.direction} is better; {counted}",
    )
    return eval_result_entries_to_yaml([entry]) if math.isfinite(value) else []
