"""Speech recognition by CTC: hear a clip, write what is said. What a `Task` is stands in `task.py`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel, SequenceFeatureExtractor

from ..data.speech_batches import EncodedClips, SpeechBatch, SpeechBatches, SpeechBatching, features_of
from ..data.speech_corpus import SpeechRows
from ..data.speech_preparation import ModelFrames, PreparedSpeech, feature_statistics, prepare_speech
from ..data.speech_sources import SPEECH_SOURCES
from ..errors import UserError, check_choice
from ..evaluation.report import Evaluated, EvaluatedRow
from ..evaluation.sharing import evenly_drawn
from ..evaluation.speech_evaluator import LabelLoss, SpeechDecoding, evaluate_speech, label_nats, recognise, run_on_features
from ..evaluation.speech_metrics import SPEECH_METRICS, row_errors
from ..models import FAMILIES, build_model
from ..recipe import Recipe
from ..speech.audio import wav_bytes
from .starting_model import starting_model
from .task import Task, TrainedProcessor

SAMPLE_FILE = "sample.wav"


class SpeechRecognition(Task):
    """A model that scores characters frame by frame; the loss is over all alignments of a transcript with the frames."""

    head = "ForCTC"
    hears = True
    prepared: PreparedSpeech

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """The source must have speech, and the model must hear."""
        check_choice("data.source for speech_recognition", recipe.data.source, SPEECH_SOURCES)
        speeds = recipe.data.speed_percents
        if not speeds or not all(isinstance(speed, int) and 50 <= speed <= 200 for speed in speeds):
            raise UserError(f"data.speed_percents is {speeds}; give whole numbers from 50 to 200, such as [90, 100, 110].")
        if recipe.model.pretrained is not None:
            raise UserError("model.pretrained is set, but speech_recognition trains families from scratch; set model.family: recurrent.")

    def prepare(self, trained: TrainedProcessor | None = None) -> None:
        """Read, split and tokenise the clips; what the features are normalised by is measured on those to train on."""
        extractor = trained.feature_extractor if trained else None

        def make_extractor(rows: SpeechRows) -> SequenceFeatureExtractor:
            return extractor or self._build_extractor(rows)

        self.prepared = prepare_speech(
            self.recipe.data,
            self.recipe.processor,
            self._frames(extractor or self._build_extractor(None)),
            tokenizer=trained.tokenizer if trained else None,
            extractor=make_extractor,
        )

    def _build_extractor(self, rows: SpeechRows | None) -> SequenceFeatureExtractor:
        """The family's extractor with the sizes of the recipe's model, normalising by the statistics of `rows`."""
        family = FAMILIES[self._family]
        extractor_class: Any = family.feature_extractor_class
        model_config: Any = family.config_class(**self.recipe.model.config)
        sizes = {"num_mel_bins": model_config.num_mel_bins, "hop_length": model_config.hop_length}
        plain = extractor_class(**sizes)
        if rows is None:
            return plain
        mean, deviation = feature_statistics(rows, plain.features)
        return extractor_class(**sizes, mean=mean, standard_deviation=deviation)

    @property
    def _family(self) -> str:
        family = self.recipe.model.family
        assert family is not None  # `check` demands it
        return family

    def _frames(self, extractor: Any) -> ModelFrames:
        """How many frames the recipe's model makes of clips; it is built without weights for that."""
        with torch.device("meta"):
            model: Any = build_model(self._family, self.head, self.recipe.model.config)
        per_clip: Callable[[int], int] = extractor.num_frames

        def count(num_samples: np.ndarray) -> np.ndarray:
            read = torch.tensor([per_clip(int(samples)) for samples in num_samples])
            return np.asarray(model._get_feat_extract_output_lengths(read))

        return ModelFrames(extractor.sampling_rate, count)

    def build_model(self) -> PreTrainedModel:
        """The family's model with the tokenizer's vocabulary; its blank is the pad token."""
        return starting_model(self.recipe, self.head, {"vocab_size": len(self.tokenizer), "pad_token_id": self._blank})

    @property
    def _blank(self) -> int:
        blank = self.tokenizer.pad_token_id
        assert isinstance(blank, int), "a tokenizer for CTC has a pad token"
        return blank

    def save_processor(self, folder: Path) -> None:
        """Tokenizer and feature extractor; and a held-out clip to try the model on, where nobody's voice is given away by it."""
        super().save_processor(folder)
        self.prepared.extractor.save_pretrained(folder)
        if self.prepared.corpus.raw.is_synthetic:
            waveforms = self._shown.rows.waveforms
            folder.joinpath(SAMPLE_FILE).write_bytes(wav_bytes(waveforms.waveform(self._shown_rows(1)[0]), waveforms.sampling_rate))

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
        )
        return SpeechBatches(self.prepared.splits["train"], self.prepared.extractor, batching)

    def loss(self, model: nn.Module, batch: SpeechBatch, carried: Any) -> tuple[Tensor, Any]:
        """Nats of this share's transcripts divided by the labels of the whole step."""
        device = next(model.parameters()).device
        batch = batch.to(device)
        frames = run_on_features(model, batch.inputs, torch.from_numpy(batch.num_samples))
        nats = label_nats(frames, batch.labels, self._blank, zero_infinity=True)
        return (nats * torch.from_numpy(batch.rows >= 0).to(device)).sum() / batch.num_tokens, None

    def evaluate(self, model: nn.Module, accelerator: Accelerator, split: str, *, in_full: bool) -> Evaluated:
        """Every clip is recognised once, greedily."""
        clips = self.prepared.splits[split]
        rows = clips.chosen[evenly_drawn(len(clips.chosen), None if in_full else self.recipe.evaluation.max_examples)]
        results = evaluate_speech(
            model,
            self.tokenizer,
            EncodedClips(clips.rows, clips.labels, rows),
            self.prepared.extractor,
            SpeechDecoding(self.recipe.evaluation.batch_size, self.recipe.processor.normalizer),
            accelerator=accelerator,
        )
        outputs = results.outputs
        figures = {"loss": LabelLoss.compute(results), **{name: metric.compute(outputs) for name, metric in SPEECH_METRICS.items()}}
        counts = {"num_rows": len(rows), "num_words": int(outputs.counts.words.sum()), "num_seconds": round(results.seconds, 1)}
        names = [self._clip_name(clips.rows, int(row)) for row in rows]
        found = zip(names, outputs.predictions, outputs.references, row_errors(outputs).tolist(), strict=True)
        return Evaluated({**figures, **counts}, [EvaluatedRow(*row) for row in found], "errors per word")

    @staticmethod
    def _clip_name(rows: SpeechRows, row: int) -> str:
        known = [value for value in (rows.speakers[row], rows.conditions[row]) if value]
        return f"clip {row + 1}" + (f" ({', '.join(known)})" if known else "")

    @property
    def _shown(self) -> EncodedClips:
        return self.prepared.splits["validation" if "validation" in self.prepared.splits else "train"]

    def _shown_rows(self, count: int) -> list[int]:
        chosen = self._shown.chosen
        return [int(chosen[place]) for place in evenly_drawn(len(chosen), count)]

    @property
    def prompt(self) -> str:
        """The name of the clip beside the model."""
        return SAMPLE_FILE

    def preview(self, model: PreTrainedModel) -> str:
        """Some held-out clips: what is heard, and what is said."""
        rows = self._shown_rows(self.recipe.evaluation.sample_examples) if self.recipe.evaluation.sample_examples else []
        if not rows:
            return ""
        clips, device = self._shown.rows, next(model.parameters()).device
        inputs = features_of(self.prepared.extractor, [clips.waveforms.waveform(row) for row in rows])
        heard = recognise(model, self.tokenizer, {name: values.to(device) for name, values in inputs.items()})
        return "\n".join(f"{self._clip_name(clips, row)} → {text} ({clips.texts[row]})" for row, text in zip(rows, heard, strict=True))
