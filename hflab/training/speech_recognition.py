"""Speech recognition by CTC: hear a clip, write what is said. What a `Task` is stands in `task.py`."""

import dataclasses
import functools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..data.speech_batches import SpeechBatch, SpeechBatches, SpeechBatching, features_of
from ..data.speech_preparation import ModelFrames, PreparedSpeech, prepare_speech
from ..evaluation.padding import PROBE_SAMPLES, padding_reaches
from ..evaluation.report import Evaluated
from ..evaluation.sharing import evenly_drawn
from ..evaluation.speech_evaluator import Decoder, SpeechDecoding, evaluate_speech, label_nats, recognise, run_on_features
from ..speech.ctc_beam_search import BeamOptions, beam_decode
from ..speech.ctc_decoding import greedy_decode
from .pretrained import load_pretrained_model
from .speech_models import SAFE_FIELDS, SpeechReader, check_vocabulary, frames_of_model
from .speech_task import NEARLY_EQUAL, SpeechTask
from .starting_model import starting_model
from .task import TrainedProcessor

logger = logging.getLogger(__name__)


class SpeechRecognition(SpeechTask):
    """A model that scores characters frame by frame; the loss is over all alignments of a transcript with the frames."""

    head = "ForCTC"
    prepared: PreparedSpeech

    def prepare(self, trained: TrainedProcessor | None = None) -> None:
        """Read, split and tokenise the clips; what a new model's features are normalised by is measured on those to train on."""
        self._beam_options = (trained and trained.beam_options) or BeamOptions()
        reader = self.reader(trained)
        self.prepared = prepare_speech(
            self.recipe.data,
            self.recipe.processor,
            self._frames_of(reader),
            tokenizer=reader.tokenizer,
            extractor=lambda rows: self.extractor_of(reader, rows),
        )

    def frames(self) -> ModelFrames:
        """How many frames the recipe's model makes of clips."""
        return self._frames_of(self.reader())

    def _frames_of(self, reader: SpeechReader) -> ModelFrames:
        return frames_of_model(reader.config, self.extractor_of(reader), self.head)

    def build_model(self) -> PreTrainedModel:
        """The family's model for the tokenizer, whose pad token is its blank; or the pretrained one, with its own head or a fresh one like that."""
        section = self.recipe.model
        vocabulary = {"vocab_size": len(self.tokenizer), "pad_token_id": self._blank}
        if section.pretrained is None:
            model = starting_model(self.recipe, self.head, {**SAFE_FIELDS, **vocabulary})
        else:
            model = load_pretrained_model(section, self.head, config_defaults={**SAFE_FIELDS, **(vocabulary if section.new_head else {})})
            check_vocabulary(section.pretrained, model.config, self.tokenizer)
        silence = np.zeros(PROBE_SAMPLES, dtype=np.float32)
        self._padding_reaches = padding_reaches(model, features_of(self.prepared.extractor, [silence]))
        if self._padding_reaches:
            logger.warning(
                "What this model hears in a clip changes with the padding after it, so only clips of equal length are run together, in training "
                "those whose lengths differ by at most %g %%; that is slower. Models with layer norm in all convolutions (feat_extract_norm: layer) "
                "have no need of it.",
                100 * NEARLY_EQUAL,
            )
        return model

    @property
    def _blank(self) -> int:
        blank = self.tokenizer.pad_token_id
        assert isinstance(blank, int), "a tokenizer for CTC has a pad token"
        return blank

    def save_processor(self, folder: Path) -> None:
        """The tokenizer, and what every model that hears has."""
        self.tokenizer.save_pretrained(folder)
        super().save_processor(folder)

    def batches(self) -> SpeechBatches:
        """Shuffled batches of training clips of about one length, augmented."""
        training, data = self.recipe.training, self.recipe.data
        batching = SpeechBatching(
            training.batch_size,
            training.seed,
            speed_percents=data.speed_percents,
            noise_probability=data.noise_probability,
            join_probability=data.join_probability,
            max_seconds=data.max_clip_seconds,
            nearness=NEARLY_EQUAL if self._padding_reaches else None,
        )
        return SpeechBatches(self.prepared.splits["train"], self.prepared.extractor, batching)

    def loss(self, model: nn.Module, batch: SpeechBatch, carried: Any) -> tuple[Tensor, Any]:
        """Nats of this share's transcripts divided by the labels of the whole step."""
        device = next(model.parameters()).device
        batch = batch.to(device)
        frames = run_on_features(model, batch.inputs, torch.from_numpy(batch.num_samples), nearness=NEARLY_EQUAL)
        nats = label_nats(frames, batch.labels, self._blank, zero_infinity=True)
        return (nats * torch.from_numpy(batch.rows >= 0).to(device)).sum() / batch.num_tokens, None

    def evaluate(self, model: nn.Module, accelerator: Accelerator, split: str, *, in_full: bool) -> Evaluated:
        """Every clip is recognised once, greedily or by beams."""
        clips = self.prepared.splits[split]
        rows = clips.chosen[evenly_drawn(len(clips.chosen), None if in_full else self.recipe.evaluation.max_examples)]
        results = evaluate_speech(
            model,
            self.tokenizer,
            dataclasses.replace(clips, chosen=rows),
            self.prepared.extractor,
            SpeechDecoding(self.recipe.evaluation.batch_size, self.recipe.processor.normalizer, self._decoder()),
            accelerator=accelerator,
        )
        return results.evaluated([self.clip_name(clips.rows, int(row)) for row in rows])

    def _decoder(self) -> Decoder:
        num_beams = self.recipe.evaluation.num_beams
        if num_beams == 1:
            return greedy_decode
        return functools.partial(beam_decode, options=dataclasses.replace(self._beam_options, num_beams=num_beams))

    def preview(self, model: PreTrainedModel) -> str:
        """Some held-out clips: what is heard, and what is said."""
        rows = self.shown_rows(self.recipe.evaluation.sample_examples) if self.recipe.evaluation.sample_examples else []
        if not rows:
            return ""
        clips, device = self.shown.rows, next(model.parameters()).device
        waveforms = [clips.waveforms.waveform(row) for row in rows]
        inputs = {name: values.to(device) for name, values in features_of(self.prepared.extractor, waveforms).items()}
        heard = recognise(model, self.tokenizer, inputs, torch.tensor([len(waveform) for waveform in waveforms]))
        return "\n".join(f"{self.clip_name(clips, row)} → {text} ({clips.texts[row]})" for row, text in zip(rows, heard, strict=True))
