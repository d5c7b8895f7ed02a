"""Causal language modelling: predict the next token of running text. What a `Task` is stands in `task.py`."""

import math
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..data.batches import LanguageModelBatch, LanguageModelLanes, PreparedText, ShuffledWindows, prepare_text
from ..data.sources import SOURCES
from ..errors import UserError, check_choice
from ..evaluation.evaluator import evaluate_language_model
from ..evaluation.model_properties import carries_state, innermost, max_positions
from ..evaluation.report import Evaluated
from ..generation.options import GenerationOptions
from ..generation.streaming import generate_text, longest_prompt
from ..models.recurrent.cache_recurrent import cache_from_states, detach_cache, states_from_cache
from ..models.recurrent.cells_recurrent import RecurrentState
from ..recipe import Recipe
from .starting_model import given_tokenizer, starting_model
from .task import Task, TrainedProcessor

PREVIEW_SEED = 0
PIPELINE_TOKENS = 256  # that transformers' text-generation pipeline adds where a model says nothing of it


class CausalLanguageModeling(Task):
    """Predict the next token; recurrent models carry their state from window to window (truncated back-propagation through time)."""

    head = "ForCausalLM"

    prepared: PreparedText

    @property
    def characters_per_token(self) -> float:
        """Mean length of a token of the training split, in characters."""
        split = self.prepared.splits["train"]
        return split.num_characters / split.num_tokens

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """The source must exist."""
        check_choice("data.source", recipe.data.source, SOURCES)

    def prepare(self, trained: TrainedProcessor | None = None) -> None:
        """Tokenise the text, once; later runs read the same token store."""
        tokenizer = trained.tokenizer if trained else given_tokenizer(self.recipe)
        self.prepared = prepare_text(self.recipe.data, self.recipe.processor, tokenizer=tokenizer)

    def build_model(self) -> PreTrainedModel:
        """The family's model with the tokenizer's vocabulary, or the pretrained one."""
        tokenizer = self.tokenizer
        given = {
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.eos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        if self.recipe.model.family == "gpt2" and "max_position_embeddings" not in self.recipe.model.config:
            given["n_positions"] = self.recipe.data.sequence_length
        model = starting_model(self.recipe, self.head, given)
        self._check_layout(model)
        if model.loss_type is None:  # transformers takes it from the class's name, and GPT2LMHeadModel does not tell
            model.loss_type = "ForCausalLM"
        return model

    def _check_layout(self, model: PreTrainedModel) -> None:
        positions, data = max_positions(model), self.recipe.data
        if positions is not None:
            if data.sequence_length > positions:
                raise UserError(f"data.sequence_length is {data.sequence_length}, but the model has {positions} positions; give at most {positions}.")
            if model.generation_config.max_new_tokens is None and positions < 2 * PIPELINE_TOKENS:
                model.generation_config.max_new_tokens = max(1, positions // 2)  # so that a pipeline does not run out of positions
        if data.layout == "lanes" and not getattr(model, "_is_stateful", False):
            raise UserError(
                f"data.layout is 'lanes', but {type(model).__name__} has no state to carry from window to window; set data.layout to windows."
            )

    def batches(self) -> LanguageModelLanes | ShuffledWindows:
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
        if batch.state_resets is not None and carries_state(model):  # attention reads over the end of a document
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

    def evaluate(self, model: nn.Module, accelerator: Accelerator, split: str, *, in_full: bool) -> Evaluated:
        """Loss, perplexity and bits per character and byte on `split`."""
        figures = evaluate_language_model(
            model,
            self.prepared.splits[split],
            batch_size=self.recipe.evaluation.batch_size,
            sequence_length=self.recipe.data.sequence_length,
            eos_token_id=self.tokenizer.eos_token_id,
            accelerator=accelerator,
            max_tokens=None if in_full else self.recipe.evaluation.max_tokens,
            reset_at_documents=self.recipe.data.reset_at_documents,
        )
        return Evaluated(figures)

    def preview(self, model: PreTrainedModel) -> str:
        """A sampled continuation of the recipe's prompt."""
        section = self.recipe.evaluation
        if not section.sample_tokens:
            return ""
        positions = max_positions(model)
        most = section.sample_tokens if positions is None else min(section.sample_tokens, max(1, positions // 2))
        prompt = longest_prompt(model, self.tokenizer, self.prompt, most)
        options = GenerationOptions(max_new_tokens=most, temperature=section.sample_temperature, seed=PREVIEW_SEED)
        return prompt + generate_text(model, self.tokenizer, prompt, options)

    @property
    def prompt(self) -> str:
        """The recipe's sample prompt, or the first words of the training text."""
        return self.recipe.evaluation.sample_prompt or " ".join(self.prepared.splits["train"].sample.split()[:3])[:20]

    def log_figures(self, loss: float) -> dict[str, float]:
        """Bits per character, by the characters of the training split."""
        return {"bits_per_character": loss / math.log(2) / self.characters_per_token}

    def describe_progress(self, loss: float, tokens_per_second: float) -> str:
        """Loss, bits and speed by characters."""
        bits, speed = self.log_figures(loss)["bits_per_character"], tokens_per_second * self.characters_per_token
        return f"loss {loss:.3f} · {bits:.3f} bits/char · {speed:,.0f} char/s"

    def describe_evaluation(self, figures: dict[str, float]) -> str:
        """Loss and bits per character."""
        return f"loss {figures['loss']:.4f} · {figures['bits_per_character']:.4f} bits/char"

    def training_facts(self, tokens: int) -> dict[str, Any]:
        """The amount of training in characters."""
        return {"characters": round(tokens * self.characters_per_token)}
