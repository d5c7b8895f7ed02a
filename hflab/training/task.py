"""What a task is: how its data, model, loss, figures and previews come about. The loop knows tasks only through this interface."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import transformers
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, SequenceFeatureExtractor

from ..evaluation.report import Evaluated
from ..evaluation.task_figures import TaskFigures, task_figures
from ..recipe import Recipe
from ..speech.ctc_beam_search import BeamOptions
from .pretrained import AUTO_CLASSES

IGNORED = -100  # label of what is not predicted, as in transformers


class StepBatch(Protocol):
    """A process's share of an optimizer step."""

    @property
    def num_tokens(self) -> int:
        """Labels in the whole step, not only in this share: what its loss is divided by."""


class Batches(Protocol):
    """Training batches as a pure function of the optimizer step, so that a resumed run needs no more than the step."""

    steps_per_epoch: int

    def batch(self, step: int, share: slice, /) -> StepBatch:
        """The sequences `share` of the batch of `step`, counted from 0 over all epochs."""


class Prepared(Protocol):
    """Data and processor of a task."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """What turns text into tokens."""

    @property
    def splits(self) -> dict[str, Any]:
        """The data by split."""

    @property
    def facts(self) -> dict[str, Any]:
        """What the data are, as JSON, with their `fingerprint`."""


@dataclass(frozen=True)
class TrainedProcessor:
    """What a trained model reads with."""

    tokenizer: PreTrainedTokenizerBase | None
    label_names: Sequence[str] | None = None
    """The classes of a classifier, in the order of their numbers."""
    feature_extractor: SequenceFeatureExtractor | None = None
    """What a model that hears makes of waveforms."""
    beam_options: BeamOptions | None = None
    """The beam search, with a language model, that was saved with a model that hears."""
    config: PreTrainedConfig | None = None
    """The model's, of one that hears."""


class Task(ABC):
    """One kind of training. `prepare` comes first; it fills `prepared`, which the other methods read."""

    head: ClassVar[str]  # class of the family's HEADS
    classifies: ClassVar[bool] = False  # whether the model has names of classes
    hears: ClassVar[bool] = False  # whether the model reads sound, through a feature extractor
    has_tokenizer: ClassVar[bool] = True  # whether it reads or writes text
    prepared: Any  # a `Prepared`, of the task's own class

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @classmethod
    def auto_class(cls) -> Any:
        """The Auto class of transformers that opens the task's models."""
        return getattr(transformers, AUTO_CLASSES[cls.head])

    @classmethod  # noqa: B027  a task that has nothing to check need not say so
    def check(cls, recipe: Recipe) -> None:
        """Check what needs no data. Raises `UserError` for settings that do not go together."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the prepared data."""
        tokenizer: PreTrainedTokenizerBase = self.prepared.tokenizer
        return tokenizer

    @property
    def figures(self) -> TaskFigures:
        """Which figures an evaluation gives, and what they are called."""
        return task_figures(self.recipe)

    @property
    @abstractmethod
    def prompt(self) -> str:
        """An input that shows what the model does."""

    @abstractmethod
    def prepare(self, trained: TrainedProcessor | None = None) -> None:
        """Load the data and make the processor; a model that is `trained` already is evaluated with its own."""

    def save_processor(self, folder: Path) -> None:
        """Write what the model reads with into its folder."""
        self.tokenizer.save_pretrained(folder)

    @abstractmethod
    def build_model(self) -> PreTrainedModel:
        """A model for the prepared data, on the CPU."""

    @abstractmethod
    def batches(self) -> Batches:
        """Training batches."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any, carried: Any) -> tuple[Tensor, Any]:
        """Loss of this share of a step, divided by the labels of the whole step, and the state to carry on."""

    def pack_carried(self, carried: Any) -> Any:
        """What `loss` carries on, as plain containers of tensors for a checkpoint; most tasks carry nothing."""
        return carried

    def unpack_carried(self, model: nn.Module, packed: Any) -> Any:
        """The inverse of `pack_carried`."""
        return packed

    @abstractmethod
    def evaluate(self, model: nn.Module, accelerator: Accelerator, split: str, *, in_full: bool) -> Evaluated:
        """Figures on `split`, named as in `figures.metrics`; where not `in_full`, on the part of it that the recipe gives evaluations in training."""

    @abstractmethod
    def preview(self, model: PreTrainedModel) -> str:
        """A short example of what the model does now, empty where none is wanted; leaves all random states as they were."""

    def log_figures(self, loss: float) -> dict[str, float]:
        """Figures of a training line beside its loss."""
        return {}

    def describe_progress(self, loss: float, tokens_per_second: float) -> str:
        """What the progress bar says."""
        return f"loss {loss:.3f} · {tokens_per_second:,.0f} {self.figures.trained_on}/s"

    def describe_evaluation(self, figures: dict[str, float]) -> str:
        """What is printed of an evaluation: the loss, and the headline where that is another figure."""
        headline = self.figures.headline
        return f"loss {figures['loss']:.4f}" + ("" if headline == "loss" else f" · {headline.replace('_', ' ')} {figures[headline]:.4f}")

    def training_facts(self, tokens: int) -> dict[str, Any]:
        """Facts about the amount of training, beyond its `tokens` (labels)."""
        return {}


def mean_over_step(logits: Tensor, labels: Tensor, num_labels: int) -> Tensor:
    """Nats of this share's labels divided by the labels of the whole step.

    Args:
        logits: (..., V) of any float type.
        labels: (...) int64, -100 where nothing is predicted.
        num_labels: of the whole step.
    """
    return F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum") / num_labels
