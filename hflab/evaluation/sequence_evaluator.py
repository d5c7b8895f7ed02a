"""Figures of a sequence-to-sequence model on held-out rows: each is decoded by `generate` and its target scored, once, on any number of processes.

    results = evaluate_sequences(model, tokenizer, examples, references, SequenceDecoding(num_beams=4, batch_size=64))
    figures = {"loss": TargetLoss.compute(results), "exact_match": ExactMatch.compute(results.outputs)}

Decoding is greedy or by beams, never by chance. This module knows nothing about recipes or training. Shapes: `B` rows, `T` target tokens, `V`
vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from ..data.example_encoding import EncodedExamples
from .metrics import Metric
from .model_properties import evaluation_mode, innermost
from .sequence_metrics import SequenceOutputs
from .sharing import batches_of_process, gather_rows

IGNORED = -100


@dataclass(frozen=True)
class SequenceDecoding:
    """How rows are decoded: `num_beams` (1: greedy) of the model's longest answer, `batch_size` rows at a time over all processes."""

    num_beams: int
    batch_size: int


@dataclass(frozen=True)
class SequenceResults:
    """What a model wrote for rows in their order, and the negative log-likelihood of their targets, summed."""

    outputs: SequenceOutputs
    nats: float
    num_tokens: int  # of the targets, their eos included


class TargetLoss(Metric[SequenceResults]):
    """Mean negative log-likelihood of a token of the targets, each predicted from the source and the target's tokens before it."""

    name = "loss"
    unit = "nats per target token"
    direction = "lower"

    @staticmethod
    def compute(totals: SequenceResults) -> float:
        """Return nats per target token."""
        return totals.nats / totals.num_tokens


def evaluate_sequences(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    examples: EncodedExamples,
    references: Sequence[Sequence[str]],
    decoding: SequenceDecoding,
    *,
    accelerator: Accelerator | None = None,
    target_language: str | None = None,
) -> SequenceResults:
    """Decode and score all rows.

    Args:
        model: encoder-decoder, on the device it is to run on; its mode and the random number generators stay as they are.
        tokenizer: its tokenizer, with a pad token.
        examples: the rows.
        references: texts that are right for each row.
        decoding: how.
        accelerator: shares the rows out over its processes, all of which must call, and all of which get the results of all.
        target_language: ISO 639 code, for BLEU.
    """
    device = next(model.parameters()).device
    pad = tokenizer.pad_token_id
    assert pad is not None, "a prepared tokenizer has a pad token"
    found: dict[int, tuple[str, float, int]] = {}
    with evaluation_mode(model):
        for batch, counted in batches_of_process(examples, batch_size=decoding.batch_size, pad_token_id=pad, accelerator=accelerator):
            source: dict[str, Any] = {"input_ids": batch.input_ids.to(device), "attention_mask": batch.attention_mask.to(device)}
            nats = row_nats(model, source, batch.labels.to(device)).tolist()
            texts = write_answers(model, tokenizer, source, decoding.num_beams)
            lengths = (batch.labels != IGNORED).sum(dim=1).tolist()
            found.update({row: (texts[place], nats[place], lengths[place]) for place, row in counted})
    results = gather_rows(found, accelerator)
    outputs = SequenceOutputs([text for text, _, _ in results], references, target_language)
    return SequenceResults(outputs, sum(nats for _, nats, _ in results), sum(length for _, _, length in results))


def row_nats(model: nn.Module, source: dict[str, Any], labels: Tensor) -> Tensor:
    """Negative log-likelihood of each row's labels (B, T), -100 left out; (B,) float64."""
    bare: Any = innermost(model)
    shifted = bare.prepare_decoder_input_ids_from_labels(labels)
    logits = model(**source, decoder_input_ids=shifted, use_cache=False).logits
    nats = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return nats.view(labels.shape).double().sum(dim=1)


def write_answers(model: nn.Module, tokenizer: PreTrainedTokenizerBase, source: dict[str, Any], num_beams: int) -> list[str]:
    """What `model` answers to each row of `source`, as text without special tokens."""
    written: Any = innermost(model)
    answers = written.generate(**source, num_beams=num_beams, do_sample=False)
    return [text.strip() for text in tokenizer.batch_decode(answers, skip_special_tokens=True)]
