"""Sequence to sequence: read a source, write a target. What a `Task` is stands in `task.py`."""

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..data.example_batches import ExampleBatch
from ..evaluation.model_properties import evaluation_mode, innermost
from ..evaluation.report import Evaluated, EvaluatedRow
from ..evaluation.sequence_evaluator import SequenceDecoding, SequenceResults, TargetLoss, evaluate_sequences, write_answers
from ..evaluation.sequence_metrics import SEQUENCE_METRICS, require_sacrebleu
from ..evaluation.sharing import evenly_drawn, take_rows
from ..evaluation.task_figures import writes_symbols
from ..evaluation.worst_examples import sequence_errors
from ..recipe import Recipe
from .labelled_examples import ExampleTask
from .task import mean_over_step

SPARE_TARGET_SHARE = 4  # an answer may be longer than the longest training target by one part in so many


class SequenceToSequence(ExampleTask):
    """An encoder-decoder that writes the target of a source, token by token; teacher forcing in training, `generate` in evaluation."""

    name = "seq2seq"
    head = "ForConditionalGeneration"

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """As for all labelled examples; and BLEU and chrF need a package."""
        super().check(recipe)
        if not writes_symbols(recipe):
            require_sacrebleu()

    def more_config(self) -> dict[str, int]:
        """The decoder begins with the token that ends texts."""
        eos = self.tokenizer.eos_token_id
        assert isinstance(eos, int), "a prepared tokenizer has an eos token"
        return {"decoder_start_token_id": eos}

    def build_model(self) -> PreTrainedModel:
        """As for all labelled examples, with the beams and the longest answer that it generates with."""
        model: Any = super().build_model()
        model.generation_config.num_beams = self.recipe.evaluation.num_beams
        model.generation_config.max_length = self._longest_answer() + 1  # the token that the decoder begins with
        model.generation_config.max_new_tokens = None
        return model

    def _longest_answer(self) -> int:
        longest = max(len(labels) for labels in self.prepared.splits["train"].labels)
        limit = self.recipe.data.max_target_tokens or self.recipe.data.max_source_tokens
        return min(longest + longest // SPARE_TARGET_SHARE + 1, limit)

    def loss(self, model: nn.Module, batch: ExampleBatch, carried: Any) -> tuple[Tensor, Any]:
        """Nats of this share's target tokens divided by those of the whole step."""
        batch = batch.to(next(model.parameters()).device)
        bare: Any = innermost(model)
        shifted = bare.prepare_decoder_input_ids_from_labels(batch.labels)
        outputs = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, decoder_input_ids=shifted, use_cache=False)
        return mean_over_step(outputs.logits, batch.labels, batch.num_tokens), None

    def evaluate(self, model: nn.Module, accelerator: Accelerator, split: str, *, in_full: bool) -> Evaluated:
        """Every source is decoded once, and held against all its references."""
        rows = self.rows_to_evaluate(split, in_full=in_full)
        chosen, section = self.prepared.corpus.splits[split].select(rows), self.recipe.evaluation
        results = evaluate_sequences(
            model,
            self.tokenizer,
            take_rows(self.prepared.splits[split], rows),
            chosen["references"][:],
            SequenceDecoding(num_beams=section.num_beams, batch_size=section.batch_size),
            accelerator=accelerator,
            target_language=self.prepared.corpus.target_language,
        )
        by = "symbols" if writes_symbols(self.recipe) else "characters"
        errors = sequence_errors(results.outputs, by=by)
        found = zip(chosen["source"][:], results.outputs.predictions, chosen["references"][:], errors, strict=True)
        report = [EvaluatedRow(source, answer, " / ".join(allowed), error) for source, answer, allowed, error in found]
        return Evaluated(self._figures_of(results), report, f"edits per {by.removesuffix('s')}")

    def _figures_of(self, results: SequenceResults) -> dict[str, float]:
        wanted = [name for name in self.figures.metrics if name in SEQUENCE_METRICS]
        figures = {name: SEQUENCE_METRICS[name].compute(results.outputs) for name in wanted}
        counts = {"num_rows": len(results.outputs.predictions), "num_target_tokens": results.num_tokens}
        return {"loss": TargetLoss.compute(results), **figures, **counts}

    def rows_to_evaluate(self, split: str, *, in_full: bool) -> np.ndarray:
        """The first row of each source: training rows are pairs, held-out rows are sources already."""
        sources = self.prepared.corpus.splits[split]["source"][:]
        _, first = np.unique(np.array(sources), return_index=True)
        first = np.sort(first)
        return first[evenly_drawn(len(first), None if in_full else self.recipe.evaluation.max_examples)]

    @staticmethod
    def input_text(row: dict[str, Any]) -> str:
        """The source."""
        return str(row["source"])

    def preview_row(self, model: PreTrainedModel, row: int) -> str:
        """Source, greedy answer and target."""
        split = self._shown_split
        shown, device = self.prepared.corpus.splits[split][row], next(model.parameters()).device
        ids = torch.from_numpy(self.prepared.splits[split].inputs[row])[None].to(device)
        with evaluation_mode(model):
            answer = write_answers(model, self.tokenizer, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, num_beams=1)[0]
        return f"{shown['source']} → {answer} ({' / '.join(shown['references'])})"
