"""What the tasks on labelled examples share: rows, their batches, previews and checks. Each task stands in a file of its own."""

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from transformers import PreTrainedModel

from ..data.example_batches import ExampleBatches
from ..data.example_encoding import EncodedExamples, EncodingLimits, PreparedExamples, prepare_examples
from ..data.example_sources import EXAMPLE_SOURCES
from ..errors import UserError, check_choice
from ..evaluation.model_properties import max_positions
from ..evaluation.sharing import evenly_drawn
from ..models import FAMILIES, build_model
from ..recipe import Recipe
from .starting_model import given_tokenizer, starting_model
from .task import Task, TrainedProcessor


class ExampleTask(Task):
    """A task whose data are rows of an input and what is to be made of it."""

    name: ClassVar[str]  # key of TASKS
    prepared: PreparedExamples

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """The source must serve the task, and the model must have a position for every token of a row."""
        check_choice(
            f"data.source for {cls.name}", recipe.data.source, [name for name, source in EXAMPLE_SOURCES.items() if cls.name in source.tasks]
        )
        if recipe.model.family in FAMILIES:
            with torch.device("meta"):
                model = build_model(recipe.model.family, cls.head, recipe.model.config)
            check_positions(model, recipe)

    def prepare(self, trained: TrainedProcessor | None = None) -> None:
        """Read, split and tokenise the examples."""
        data = self.recipe.data
        limits = EncodingLimits(data.max_source_tokens, data.max_target_tokens)
        tokenizer = trained.tokenizer if trained else given_tokenizer(self.recipe)
        label_names = trained.label_names if trained else None
        self.prepared = prepare_examples(data, self.recipe.processor, self.name, limits, tokenizer, label_names)

    def build_model(self) -> PreTrainedModel:
        """The family's model with the tokenizer's vocabulary and the classes, or the pretrained one."""
        tokenizer = self.tokenizer
        tokens = {
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        model = starting_model(self.recipe, self.head, {**tokens, **self.more_config()}, self.prepared.corpus.label_names or None)
        check_positions(model, self.recipe)
        return model

    def more_config(self) -> dict[str, int]:
        """What the task decides of a family's config beyond its tokens."""
        return {}

    def batches(self) -> ExampleBatches:
        """Shuffled batches of training rows of about one length."""
        training = self.recipe.training
        return ExampleBatches(self.prepared.splits["train"], batch_size=training.batch_size, pad_token_id=self.pad_token_id, seed=training.seed)

    @property
    def pad_token_id(self) -> int:
        """Id of the token that fills rows."""
        pad = self.tokenizer.pad_token_id
        assert isinstance(pad, int), "a prepared tokenizer has a pad token"
        return pad

    @property
    def prompt(self) -> str:
        """The recipe's sample prompt, or the shortest of some held-out inputs."""
        rows = self.prepared.corpus.splits[self._shown_split]
        inputs = [self.input_text(rows[int(row)]) for row in evenly_drawn(len(rows), 20)]
        return self.recipe.evaluation.sample_prompt or min(inputs, key=len)

    @property
    def _shown_split(self) -> str:
        return "validation" if "validation" in self.prepared.splits else "train"

    @staticmethod
    @abstractmethod
    def input_text(row: dict) -> str:
        """The input of a row as text."""

    def preview(self, model: PreTrainedModel) -> str:
        """Some held-out inputs with what the model makes of them and what is right."""
        rows = evenly_drawn(len(self.prepared.splits[self._shown_split]), self.recipe.evaluation.sample_examples)
        return "\n".join(self.preview_row(model, int(row)) for row in rows)

    @abstractmethod
    def preview_row(self, model: PreTrainedModel, row: int) -> str:
        """A line that shows a row of the held-out split, the prediction and the target."""

    def rows_to_evaluate(self, split: str, *, in_full: bool) -> np.ndarray:
        """Rows of `split` that an evaluation reads, (n,) int64, ascending."""
        return evenly_drawn(len(self.prepared.splits[split]), None if in_full else self.recipe.evaluation.max_examples)


def check_positions(model: PreTrainedModel, recipe: Recipe) -> None:
    """Raise `UserError` if rows may be longer than the model has positions."""
    positions = max_positions(model)
    longest = max(recipe.data.max_source_tokens, recipe.data.max_target_tokens or 0)
    if positions is not None and longest > positions:
        key = "max_source_tokens" if longest == recipe.data.max_source_tokens else "max_target_tokens"
        raise UserError(f"data.{key} is {longest}, and the model has {positions} positions; set it to at most {positions}.")


def one_row(examples: EncodedExamples, row: int) -> EncodedExamples:
    """A row of `examples` alone."""
    return EncodedExamples([examples.inputs[row]], [examples.labels[row]], 0)
