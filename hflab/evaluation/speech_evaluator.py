"""Figures of a CTC model on held-out clips: each is recognised once, on any number of processes, and scored.

    results = evaluate_speech(model, tokenizer, clips, extractor, SpeechDecoding(batch_size=16))
    figures = results.figures()

Works for every CTC model of transformers. Rows are cut to their true frames before they are decoded, so that no figure depends on the batch. Knows
nothing about recipes or training. Shapes: `B` clips, `T'` frames of logits, `L` labels, `V` vocabulary.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase, SequenceFeatureExtractor

from ..data.example_encoding import IGNORED_LABEL
from ..data.speech_batches import EncodedClips, SpeechBatches, SpeechBatching
from ..speech.ctc_decoding import CtcAlphabet, Transcript, greedy_decode
from .metrics import Metric
from .model_properties import evaluation_mode, innermost
from .padding import MASK, fill_up, outputs_of, padding_reaches, run_apart
from .report import Evaluated, EvaluatedRow
from .sharing import gather_rows, share_of_process
from .speech_metrics import SPEECH_METRICS, SpeechOutputs, row_errors


@dataclass(frozen=True)
class SpeechResults:
    """What a model heard in clips, in their order, and the negative log-likelihood of their transcripts, summed."""

    outputs: SpeechOutputs
    nats: float
    num_labels: int
    seconds: float
    """Of audio."""
    others: dict[str, SpeechOutputs] = field(default_factory=dict)
    """What was heard in the same clips by each of `SpeechDecoding.others`."""
    work_seconds: dict[str, float] = field(default_factory=dict)
    """That the processes together took for features, model and decoder, by name of the decoder: "" for the first."""

    def figures(self) -> dict[str, float]:
        """The figures of the task, and the counts that they are of."""
        figures = {"loss": LabelLoss.compute(self), **{name: metric.compute(self.outputs) for name, metric in SPEECH_METRICS.items()}}
        words = int(self.outputs.counts.words.sum())
        return {**figures, "num_rows": len(self.outputs.references), "num_words": words, "num_seconds": round(self.seconds, 1)}

    def evaluated(self, names: Sequence[str]) -> Evaluated:
        """The figures with the rows, which are called `names`."""
        found = zip(names, self.outputs.predictions, self.outputs.references, row_errors(self.outputs).tolist(), strict=True)
        return Evaluated(self.figures(), [EvaluatedRow(*row) for row in found], "errors per word")


class LabelLoss(Metric[SpeechResults]):
    """Negative log-likelihood of the transcripts, over all their alignments with the frames, per token of them."""

    name = "loss"
    unit = "nats per label"
    direction = "lower"

    @staticmethod
    def compute(totals: SpeechResults) -> float:
        """Return nats per label; infinite where a transcript has more characters than its clip has frames."""
        return totals.nats / max(totals.num_labels, 1)


@dataclass(frozen=True)
class FramesOfRows:
    """Scores of the tokens at each frame."""

    logits: Tensor
    """(B, T', V)."""
    lengths: Tensor
    """True frames of each row, (B,) int64."""


def run_on_features(model: nn.Module, inputs: dict[str, Tensor], num_samples: Tensor | None = None, *, nearness: float = 0.0) -> FramesOfRows:
    """Run a CTC model, and tell true frames from padding.

    What is found in a row does not depend on the others: where padding would reach the clip before it, rows of other lengths are run by themselves.

    Args:
        model: any CTC model of transformers, in whatever wrapper.
        inputs: what its feature extractor made, on the model's device.
        num_samples: (B,) samples of each row, for models whose extractor hands out no attention mask; default: all of the row.
        nearness: for training such a model faster: run rows together whose lengths differ by at most this share.
    """
    bare: Any = innermost(model)
    read = inputs[bare.main_input_name]
    if MASK in inputs:
        lengths = inputs[MASK].sum(dim=1)
    else:
        lengths = torch.full((len(read),), read.shape[1], device=read.device) if num_samples is None else num_samples.to(read.device)
    inputs, lengths = fill_up(model, inputs, lengths)
    is_padded = bool((lengths < inputs[bare.main_input_name].shape[1]).any())
    apart = is_padded and padding_reaches(model, inputs)
    logits = run_apart(model, inputs, lengths, nearness) if apart else outputs_of(model, inputs)
    return FramesOfRows(logits, bare._get_feat_extract_output_lengths(lengths).long().clamp(max=logits.shape[1]))


def label_nats(frames: FramesOfRows, labels: Tensor, blank: int, *, zero_infinity: bool = False) -> Tensor:
    """Negative log-likelihood of each row's labels (B, L), -100 at padding, over all alignments; (B,) float32.

    Graves et al. 2006, "Connectionist Temporal Classification", section 4. `zero_infinity`: a row without any alignment, because it has more labels
    than frames, counts nothing and has no gradient.
    """
    real = labels != IGNORED_LABEL
    log_probabilities = frames.logits.float().log_softmax(dim=-1).transpose(0, 1)
    return F.ctc_loss(log_probabilities, labels[real], frames.lengths, real.sum(dim=1), blank=blank, reduction="none", zero_infinity=zero_infinity)


Decoder = Callable[[Tensor, Tensor, CtcAlphabet], list[Transcript]]
"""From log-probabilities (B, T', V), true frames (B,) and the alphabet to transcripts."""


@dataclass(frozen=True)
class SpeechDecoding:
    """How clips are read: `batch_size` at a time over all processes, the normaliser that transcripts are scored under, and the decoder."""

    batch_size: int
    normalizer: str
    decode: Decoder = greedy_decode
    others: Mapping[str, Decoder] = field(default_factory=dict)
    """More ways to decode the same scores, by names that are not empty, to be held beside it."""


def evaluate_speech(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    clips: EncodedClips,
    extractor: SequenceFeatureExtractor,
    decoding: SpeechDecoding,
    *,
    accelerator: Accelerator | None = None,
) -> SpeechResults:
    """Recognise and score all chosen clips.

    Args:
        model: on the device it is to run on; its mode and the random number generators stay as they are.
        tokenizer: its tokenizer, whose pad token is the blank.
        clips: the clips.
        extractor: its feature extractor.
        decoding: how.
        accelerator: shares the clips out over its processes, all of which must call, and all of which get the results of all.
    """
    device = next(model.parameters()).device
    alphabet = CtcAlphabet.of_tokenizer(tokenizer)
    batches = SpeechBatches(clips, extractor, SpeechBatching(decoding.batch_size, shuffle=False))
    share, counts = share_of_process(decoding.batch_size, accelerator)
    decoders = {"": decoding.decode, **decoding.others}
    found: dict[int, tuple[list[str], float]] = {}
    work = dict.fromkeys(decoders, 0.0)
    with evaluation_mode(model):
        for step in range(batches.steps_per_epoch):
            began = time.perf_counter()
            batch = batches.batch(step, share).to(device)
            frames = run_on_features(model, batch.inputs, torch.from_numpy(batch.num_samples))
            log_probabilities = frames.logits.float().log_softmax(dim=-1)
            _wait_for(device)
            read = time.perf_counter() - began
            heard = []
            for name, decode in decoders.items():
                began = time.perf_counter()
                heard.append([transcript.text for transcript in decode(log_probabilities, frames.lengths, alphabet)])
                work[name] += counts * (read + time.perf_counter() - began)
            nats = label_nats(frames, batch.labels, alphabet.blank).tolist()
            found |= {int(row): ([texts[place] for texts in heard], nats[place]) for place, row in enumerate(batch.rows) if counts and row >= 0}
    results = gather_rows(found, accelerator)
    outputs = [_outputs(clips, [texts[number] for texts, _ in results], decoding.normalizer) for number in range(len(decoders))]
    return SpeechResults(
        outputs=outputs[0],
        nats=float(np.sum([nats for _, nats in results])),
        num_labels=sum(len(clips.labels[row]) for row in clips.chosen),
        seconds=float(clips.rows.waveforms.lengths[clips.chosen].sum()) / clips.rows.waveforms.sampling_rate,
        others=dict(zip(decoding.others, outputs[1:], strict=True)),
        work_seconds=_summed(work, accelerator),
    )


def _wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was told, so that its work is not counted as that of a decoder."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _summed(work: dict[str, float], accelerator: Accelerator | None) -> dict[str, float]:
    """The seconds of all processes."""
    shares = [work] if accelerator is None or accelerator.num_processes == 1 else gather_object([work])
    return {name: sum(share[name] for share in shares) for name in work}


def log_probabilities_of(model: nn.Module, clips: EncodedClips, extractor: SequenceFeatureExtractor, batch_size: int) -> list[Tensor]:
    """Logarithms of the probabilities of the tokens at each true frame of each chosen clip, (T', V) float32 on the CPU."""
    device = next(model.parameters()).device
    batches = SpeechBatches(clips, extractor, SpeechBatching(batch_size, shuffle=False))
    found: dict[int, Tensor] = {}
    with evaluation_mode(model):
        for step in range(batches.steps_per_epoch):
            batch = batches.batch(step, slice(0, batch_size)).to(device)
            frames = run_on_features(model, batch.inputs, torch.from_numpy(batch.num_samples))
            made = frames.logits.float().log_softmax(dim=-1).cpu()
            rows = zip(batch.rows, made, frames.lengths.tolist(), strict=True)
            found |= {int(row): values[:length].clone() for row, values, length in rows if row >= 0}
    return [found[int(row)] for row in clips.chosen]


def recognise(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, inputs: dict[str, Tensor], num_samples: Tensor) -> list[str]:
    """What a model hears in rows of features or waveforms of (B,) samples each, greedily."""
    with evaluation_mode(model):
        frames = run_on_features(model, inputs, num_samples)
    heard = greedy_decode(frames.logits.float().log_softmax(dim=-1), frames.lengths, CtcAlphabet.of_tokenizer(tokenizer))
    return [transcript.text for transcript in heard]


def _outputs(clips: EncodedClips, texts: list[str], normalizer: str) -> SpeechOutputs:
    """The texts beside what was said, by whom and how; `clips.chosen` is ascending."""
    rows, chosen = clips.rows, [int(row) for row in clips.chosen]
    speakers, conditions = ([values[row] for row in chosen] for values in (rows.speakers, rows.conditions))
    lengths = rows.waveforms.lengths / rows.waveforms.sampling_rate
    return SpeechOutputs(
        predictions=texts,
        references=[rows.texts[row] for row in chosen],
        normalizer=normalizer,
        speakers=[speaker or "unknown" for speaker in speakers] if any(speakers) else None,
        conditions=[condition or "unknown" for condition in conditions] if any(conditions) else None,
        seconds=[float(lengths[row]) for row in chosen],
    )
