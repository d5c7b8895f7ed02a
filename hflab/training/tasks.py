"""The tasks by name, and checking what a recipe chooses before any work. What a task is stands in `task.py`, each task in a file of its own."""

import torch

from ..errors import UserError, check_choice
from ..models import FAMILIES, check_model_config
from ..recipe import Recipe
from .classification import TextClassification, TokenClassification
from .energy import check_country
from .language_modeling import CausalLanguageModeling
from .masked_language_modeling import MaskedLanguageModeling
from .optimization import optimizer_class
from .sequence_to_sequence import SequenceToSequence
from .speech_pretraining import SpeechPretraining
from .speech_recognition import SpeechRecognition
from .task import Task

__all__ = ["TASKS", "CausalLanguageModeling", "Task", "check_recipe"]

TASKS: dict[str, type[Task]] = {
    "causal_lm": CausalLanguageModeling,
    "seq2seq": SequenceToSequence,
    "text_classification": TextClassification,
    "token_classification": TokenClassification,
    "masked_lm": MaskedLanguageModeling,
    "speech_recognition": SpeechRecognition,
    "speech_pretraining": SpeechPretraining,
}


def check_recipe(recipe: Recipe) -> None:
    """Check every choice that needs no data, so that a mistake costs no time.

    Raises:
        UserError: unknown task, source, family, head, config field, optimizer or a device that is not there; the message names the nearest.
    """
    check_choice("task", recipe.task, TASKS)
    TASKS[recipe.task].check(recipe)
    optimizer_class(recipe.training.optimizer)
    if recipe.evaluation.num_beams > 1 and recipe.task not in ("seq2seq", "speech_recognition"):
        raise UserError(
            f"evaluation.num_beams is {recipe.evaluation.num_beams}, but only seq2seq and speech_recognition decode held-out rows; remove it."
        )
    if recipe.model.family is not None:
        check_choice("model.family", recipe.model.family, FAMILIES)
        check_model_config(recipe.model.family, TASKS[recipe.task].head, recipe.model.config)
    check_country(recipe.tracking.country)
    _check_device(recipe)


def _check_device(recipe: Recipe) -> None:
    training = recipe.training
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(training.device, True):
        raise UserError(f"training.device is {training.device!r}, but torch sees no such device here; set it to auto or cpu.")
    on_cpu = training.device == "cpu" or not any(available.values())
    if training.mixed_precision == "fp16" and on_cpu:
        raise UserError("training.mixed_precision is 'fp16', which needs a GPU and there is none; set it to bf16 or no.")
