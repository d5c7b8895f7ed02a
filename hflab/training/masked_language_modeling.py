"""Masked language modelling with next-sentence prediction (Devlin et al., 2019). What a `Task` is stands in `task.py`."""

from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..data.masked_batches import MaskedBatch, MaskedBatches, MaskingTokens
from ..data.sentences import PreparedSentences, prepare_sentences
from ..data.sources import SOURCES
from ..errors import UserError, check_choice
from ..evaluation.masked_evaluator import MaskedRow, evaluate_masked, masked_logits
from ..evaluation.masked_metrics import MASKED_METRICS
from ..evaluation.model_properties import max_positions
from ..evaluation.report import Evaluated, EvaluatedRow
from ..recipe import Recipe
from .starting_model import given_tokenizer, starting_model
from .task import IGNORED, Task, TrainedProcessor, mean_over_step

EVALUATION_SEED = 0  # of masks and pairs of held-out text: every evaluation reads the same


class MaskedLanguageModeling(Task):
    """Predict hidden tokens from both sides, and whether the second of two segments follows the first."""

    head = "ForPreTraining"
    prepared: PreparedSentences

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """The source must exist, and a model with segments have two."""
        check_choice("data.source", recipe.data.source, SOURCES)
        segments = recipe.model.config.get("type_vocab_size", 2)
        if isinstance(segments, int) and segments < 2:
            raise UserError(f"model.type_vocab_size is {segments}, but pairs have two segments; leave it out, or set it to 2.")

    def prepare(self, trained: TrainedProcessor | None = None) -> None:
        """Cut the text into sentences and tokenise them; every split must have pairs."""
        data, tokenizer = self.recipe.data, trained.tokenizer if trained else given_tokenizer(self.recipe)
        self.prepared = prepare_sentences(data, self.recipe.processor, tokenizer)
        for split in self.prepared.splits:
            self._batches_of(split, batch_size=1, seed=EVALUATION_SEED)

    def build_model(self) -> PreTrainedModel:
        """The family's model with the tokenizer's vocabulary and two segments, or the pretrained one."""
        tokenizer = self.tokenizer
        tokens = {
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.cls_token_id,
            "eos_token_id": tokenizer.sep_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "type_vocab_size": 2,
        }
        model = starting_model(self.recipe, self.head, tokens)
        positions, length = max_positions(model), self.recipe.data.sequence_length
        if positions is not None and length > positions:
            raise UserError(f"data.sequence_length is {length}, and the model has {positions} positions; set it to at most {positions}.")
        return model

    def batches(self) -> MaskedBatches:
        """Pairs of segments of the training split, masked anew in every epoch."""
        return self._batches_of("train", batch_size=self.recipe.training.batch_size, seed=self.recipe.training.seed)

    def _batches_of(self, split: str, *, batch_size: int, seed: int) -> MaskedBatches:
        return MaskedBatches(
            self.prepared.splits[split],
            MaskingTokens.of(self.tokenizer),
            batch_size=batch_size,
            sequence_length=self.recipe.data.sequence_length,
            seed=seed,
            mask_probability=self.recipe.data.mask_probability,
        )

    def loss(self, model: nn.Module, batch: MaskedBatch, carried: Any) -> tuple[Tensor, Any]:
        """Nats of this share's masked tokens, and of its pairs, each divided by their number in the whole step."""
        batch = batch.to(next(model.parameters()).device)
        assert batch.next_sentence_label is not None, "pairs are asked for"
        chosen, pairs = masked_logits(model, batch)
        of_tokens = mean_over_step(chosen, batch.labels[batch.labels != IGNORED], batch.num_tokens)
        return of_tokens + F.cross_entropy(pairs, batch.next_sentence_label, ignore_index=IGNORED, reduction="sum") / batch.num_rows, None

    def evaluate(self, model: nn.Module, accelerator: Accelerator, split: str, *, in_full: bool) -> Evaluated:
        """Every pair of the split is read once, with the same masks in every evaluation."""
        section = self.recipe.evaluation
        batches = self._batches_of(split, batch_size=section.batch_size, seed=EVALUATION_SEED)
        totals, rows = evaluate_masked(model, batches, accelerator=accelerator, max_tokens=None if in_full else section.max_tokens)
        figures = {name: metric.compute(totals) for name, metric in MASKED_METRICS.items()}
        report = [self._reported(row) for row in rows if row.expected]
        return Evaluated({**figures, "num_tokens": totals.num_tokens, "num_pairs": totals.num_pairs}, report, "nats per masked token")

    def _reported(self, row: MaskedRow) -> EvaluatedRow:
        read, predicted, expected = (str(self.tokenizer.decode(ids)) for ids in (row.input_ids, row.predicted, row.expected))
        return EvaluatedRow(read, predicted, expected, row.nats / len(row.expected))

    def preview(self, model: PreTrainedModel) -> str:
        """Some held-out pairs with hidden tokens, the tokens found in their places and the right ones."""
        count = self.recipe.evaluation.sample_examples
        if not count:
            return ""
        batches = self._batches_of("validation", batch_size=count, seed=EVALUATION_SEED)
        _, rows = evaluate_masked(model, batches, max_tokens=1)
        shown = [self._reported(row) for row in rows if row.expected]
        return "\n".join(" ".join(f"{row.given} → {row.prediction} ({row.expected})".split()) for row in shown)

    @property
    def prompt(self) -> str:
        """The recipe's sample prompt, or the first words of the training text, one of them hidden."""
        words = self.prepared.facts["splits"]["train"]["sample"].split()[:8]
        mask = str(self.tokenizer.mask_token)
        given = self.recipe.evaluation.sample_prompt or " ".join([*words[:3], mask, *words[4:]])
        return given if mask in given else f"{given} {mask}"
