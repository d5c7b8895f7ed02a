"""What a task is: how its data, model, loss, figures and previews come about. The loop knows tasks only through this interface."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..data.batches import LanguageModelBatch, LanguageModelLanes, PreparedText, ShuffledWindows, prepare_text
from ..data.sources import SOURCES
from ..errors import UserError, check_choice
from ..evaluation.evaluator import evaluate_language_model
from ..evaluation.inspection import innermost
from ..generation.streaming import GenerationOptions, generate_text
from ..models import FAMILIES, build_model, check_model_config
from ..models.recurrent.cache_recurrent import cache_from_states, detach_cache, states_from_cache
from ..models.recurrent.cells_recurrent import RecurrentState
from ..recipe import Recipe
from .optimization import optimizer_class

Batches = LanguageModelLanes | ShuffledWindows
PREVIEW_SEED = 0


class Task(ABC):
    """One kind of training. `prepare` comes first; it fills `prepared`, which the other methods read."""

    head: ClassVar[str]  # class of the family's HEADS
    prepared: PreparedText

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the prepared text."""
        return self.prepared.tokenizer

    @property
    def characters_per_token(self) -> float:
        """Mean length of a token of the training split, in characters."""
        split = self.prepared.splits["train"]
        return split.num_characters / split.num_tokens

    @property
    @abstractmethod
    def prompt(self) -> str:
        """An input that shows what the model does."""

    @abstractmethod
    def prepare(self) -> None:
        """Load the data and the processor."""

    @abstractmethod
    def build_model(self) -> PreTrainedModel:
        """A model for the prepared data, on the CPU."""

    @abstractmethod
    def batches(self) -> Batches:
        """Training batches as a pure function of the optimizer step."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: LanguageModelBatch, carried: Any) -> tuple[Tensor, Any]:
        """Loss of this share of a step, divided by the tokens of the whole step, and the state to carry on."""

    @abstractmethod
    def pack_carried(self, carried: Any) -> Any:
        """What `loss` carries on, as plain containers of tensors for a checkpoint."""

    @abstractmethod
    def unpack_carried(self, model: nn.Module, packed: Any) -> Any:
        """The inverse of `pack_carried`."""

    @abstractmethod
    def evaluate(self, model: nn.Module, accelerator: Accelerator, split: str, max_tokens: int | None) -> dict[str, float]:
        """Figures on `split`, named as in `hflab.evaluation.metrics.METRICS`."""

    @abstractmethod
    def preview(self, model: PreTrainedModel) -> str:
        """A short example of what the model does now; leaves all random states as they were."""


class CausalLanguageModeling(Task):
    """Predict the next token; recurrent models carry their state from window to window (truncated back-propagation through time)."""

    head = "ForCausalLM"

    def prepare(self) -> None:
        """Tokenise the text, once; later runs read the same token store."""
        self.prepared = prepare_text(self.recipe.data, self.recipe.processor, tokenizer=self._given_tokenizer())

    def _given_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """A pretrained model reads with its own tokenizer, whatever the processor section says."""
        section = self.recipe.model
        return None if section.pretrained is None else AutoTokenizer.from_pretrained(section.pretrained, trust_remote_code=section.trust_remote_code)

    def build_model(self) -> PreTrainedModel:
        """The family's model with the tokenizer's vocabulary, or the pretrained one."""
        section, tokenizer = self.recipe.model, self.tokenizer
        if section.pretrained is not None:
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(section.pretrained, trust_remote_code=section.trust_remote_code)
        else:
            assert section.family is not None  # recipe.py demands one of the two
            tokens = {
                "vocab_size": len(tokenizer),
                "bos_token_id": tokenizer.eos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            }
            model = build_model(section.family, self.head, {**tokens, **section.config})
        if self.recipe.data.layout == "lanes" and not getattr(model, "_is_stateful", False):
            raise UserError(
                f"data.layout is 'lanes', but {type(model).__name__} has no state to carry from window to window; set data.layout to windows."
            )
        return model

    def batches(self) -> Batches:
        """Lanes with carried state, or shuffled windows, of the training split."""
        data, training = self.recipe.data, self.recipe.training
        tokens = self.prepared.splits["train"].tokens
        shape: dict[str, Any] = {
            "sequence_length": data.sequence_length,
            "eos_token_id": self.tokenizer.eos_token_id,
            "reset_at_documents": data.reset_at_documents,
            "seed": training.seed,
        }
        if data.layout == "lanes":
            return LanguageModelLanes(tokens, num_lanes=training.batch_size, reset_probability=training.state_reset_probability, **shape)
        return ShuffledWindows(tokens, batch_size=training.batch_size, **shape)

    def loss(self, model: nn.Module, batch: LanguageModelBatch, carried: Any) -> tuple[Tensor, Any]:
        """Nats of this share divided by the tokens of the whole step; the new state is cut from the graph."""
        carries = self.recipe.data.layout == "lanes"
        stateful: dict[str, Any] = {"use_cache": carries}
        if carries and batch.carries_state:
            stateful["past_key_values"] = carried
        device = next(model.parameters()).device
        if batch.state_resets is not None:
            stateful["state_resets"] = batch.state_resets.to(device)
        targets = batch.shift_labels.to(device)
        outputs = model(
            input_ids=batch.input_ids.to(device),
            labels=targets,  # transformers computes a loss only when labels are there; the aligned ones win
            shift_labels=targets,
            num_items_in_batch=batch.num_tokens,
            **stateful,
        )
        return outputs.loss, detach_cache(outputs.past_key_values) if carries else None

    def pack_carried(self, carried: Any) -> Any:
        """The recurrent state of every layer as plain tensors; None at the beginning of the text."""
        return None if carried is None else [tuple(state) for state in states_from_cache(carried)]

    def unpack_carried(self, model: nn.Module, packed: Any) -> Any:
        """The cache that continues from `packed`."""
        return None if packed is None else cache_from_states(innermost(model).config, [RecurrentState(*state) for state in packed])

    def evaluate(self, model: nn.Module, accelerator: Accelerator, split: str, max_tokens: int | None) -> dict[str, float]:
        """Loss, perplexity and bits per character and byte on `split`."""
        return evaluate_language_model(
            model,
            self.prepared.splits[split],
            batch_size=self.recipe.evaluation.batch_size,
            sequence_length=self.recipe.data.sequence_length,
            eos_token_id=self.tokenizer.eos_token_id,
            accelerator=accelerator,
            max_tokens=max_tokens,
            reset_at_documents=self.recipe.data.reset_at_documents,
        )

    def preview(self, model: PreTrainedModel) -> str:
        """A sampled continuation of the recipe's prompt."""
        section = self.recipe.evaluation
        options = GenerationOptions(max_new_tokens=section.sample_tokens, temperature=section.sample_temperature, seed=PREVIEW_SEED)
        return self.prompt + generate_text(model, self.tokenizer, self.prompt, options)

    @property
    def prompt(self) -> str:
        """The recipe's sample prompt, or the first words of the training text."""
        return self.recipe.evaluation.sample_prompt or " ".join(self.prepared.splits["train"].sample.split()[:3])[:20]


TASKS: dict[str, type[Task]] = {"causal_lm": CausalLanguageModeling}


def check_recipe(recipe: Recipe) -> None:
    """Check every choice that needs no data, so that a mistake costs no time.

    Raises:
        UserError: unknown task, source, family, config field, optimizer or a device that is not there; the message names the nearest.
    """
    check_choice("task", recipe.task, TASKS)
    check_choice("data.source", recipe.data.source, SOURCES)
    optimizer_class(recipe.training.optimizer)
    if recipe.model.family is not None:
        check_choice("model.family", recipe.model.family, FAMILIES)
        check_model_config(recipe.model.family, TASKS[recipe.task].head, recipe.model.config)
    _check_device(recipe)


def _check_device(recipe: Recipe) -> None:
    training = recipe.training
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(training.device, True):
        raise UserError(f"training.device is {training.device!r}, but torch sees no such device here; set it to auto or cpu.")
    on_cpu = training.device == "cpu" or not any(available.values())
    if training.mixed_precision == "fp16" and on_cpu:
        raise UserError("training.mixed_precision is 'fp16', which needs a GPU and there is none; set it to bf16 or no.")
