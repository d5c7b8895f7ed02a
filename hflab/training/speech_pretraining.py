"""Pre-training of wav2vec 2.0 on sound alone (Baevski et al. 2020, arXiv:2006.11477). What a `Task` is stands in `task.py`.

Spans of frames are hidden, and the model must tell which code stood at each, among those of other hidden frames of the clip; the codes are learnt
with it. The run is fine-tuned on transcripts by `model: {pretrained: RUN, new_head: true}` in a recipe of speech_recognition.
"""

import logging
from typing import Any

import numpy as np
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..data.contrastive_batches import ContrastiveBatch, ContrastiveBatches, Masking, PreparedSounds, TemperatureDecay, prepare_sounds
from ..data.speech_batches import EncodedClips, SpeechBatching, features_of
from ..errors import UserError
from ..evaluation.contrastive_evaluator import ContrastiveRow, evaluate_contrastive
from ..evaluation.contrastive_metrics import CONTRASTIVE_METRICS
from ..evaluation.model_properties import innermost
from ..evaluation.padding import PROBE_SAMPLES, padding_reaches
from ..evaluation.report import Evaluated, EvaluatedRow
from ..evaluation.sharing import evenly_drawn
from ..recipe import Recipe
from .pretrained import load_pretrained_model
from .speech_models import SAFE_FIELDS, frames_of_model
from .speech_task import NEARLY_EQUAL, SpeechTask
from .starting_model import starting_model
from .task import TrainedProcessor

logger = logging.getLogger(__name__)

EVALUATION_SEED = 0  # of what is hidden of held-out clips: every evaluation reads the same
LEAST_SPANS = 2  # that a clip must have room for: one is hidden, and the rest is heard


class SpeechPretraining(SpeechTask):
    """Find the code of hidden frames among others; no transcripts are read and no text is written."""

    head = "ForPreTraining"
    has_tokenizer = False
    prepared: PreparedSounds

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """The source must have speech, heard as it is, and the temperature must fall."""
        super().check(recipe)
        data, training = recipe.data, recipe.training
        if data.speed_percents != [100] or data.join_probability:
            key = "speed_percents" if data.speed_percents != [100] else "join_probability"
            raise UserError(f"data.{key} is {getattr(data, key)}, and speech_pretraining hears clips one by one at their own speed; remove it.")
        if recipe.model.lora is not None:
            raise UserError("model.lora is set, and speech_pretraining trains all of a model; remove it.")
        if training.min_gumbel_temperature > training.max_gumbel_temperature:
            raise UserError(
                f"training.min_gumbel_temperature is {training.min_gumbel_temperature:g}, above training.max_gumbel_temperature "
                f"({training.max_gumbel_temperature:g}); lower it."
            )

    def prepare(self, trained: TrainedProcessor | None = None) -> None:
        """Read and split the clips."""
        reader = self.reader(trained)
        config: Any = reader.config
        self._frames = frames_of_model(config, self.extractor_of(reader), self.head)
        self.prepared = prepare_sounds(
            self.recipe.data,
            self._frames,
            least_frames=LEAST_SPANS * config.mask_time_length,
            extractor=lambda rows: self.extractor_of(reader, rows),
        )
        self._masking = Masking(
            self._frames.count, self.recipe.data.mask_probability, config.mask_time_length, config.mask_time_min_masks, config.num_negatives
        )

    def build_model(self) -> PreTrainedModel:
        """The family's model, or the pretrained one to go on with."""
        section = self.recipe.model
        if section.pretrained is None:
            model = starting_model(self.recipe, self.head, SAFE_FIELDS)
        else:
            model = load_pretrained_model(section, self.head, config_defaults=SAFE_FIELDS)
        if getattr(model, "set_gumbel_temperature", None) is None or innermost(model).main_input_name != "input_values":
            raise UserError(f"{type(model).__name__} is not pre-trained as wav2vec 2.0 is; take a model of the kind wav2vec2 or wav2vec2-conformer.")
        if self._padding_reaches(model):
            logger.warning(
                "What this model hears in a clip changes with the padding after it, which training batches have a little of; evaluation reads clips "
                "one by one. Set model.feat_extract_norm: layer and model.do_stable_layer_norm: true."
            )
        return model

    def _padding_reaches(self, model: nn.Module) -> bool:
        inputs = features_of(self.prepared.extractor, [np.zeros(PROBE_SAMPLES, dtype=np.float32)])
        device = next(model.parameters()).device
        return padding_reaches(model, {name: values.to(device) for name, values in inputs.items()})

    def batches(self) -> ContrastiveBatches:
        """Shuffled batches of training clips of nearly one length, hidden anew every epoch."""
        training, data = self.recipe.training, self.recipe.data
        batching = SpeechBatching(training.batch_size, training.seed, noise_probability=data.noise_probability, nearness=NEARLY_EQUAL)
        decay = TemperatureDecay(training.max_gumbel_temperature, training.min_gumbel_temperature, training.gumbel_temperature_decay)
        return ContrastiveBatches(self.prepared.splits["train"], self.prepared.extractor, batching, self._masking, decay)

    def loss(self, model: nn.Module, batch: ContrastiveBatch, carried: Any) -> tuple[Tensor, Any]:
        """Nats of this share's hidden frames, and its diversity loss for each, divided by the hidden frames of the whole step."""
        bare: Any = innermost(model)
        bare.set_gumbel_temperature(batch.temperature)
        nothing_hidden = not bool(batch.is_hidden.any())  # a share of clips that only fill the step
        batch = batch.to(next(model.parameters()).device)
        outputs = model(**batch.inputs, mask_time_indices=batch.is_hidden, sampled_negative_indices=batch.negatives)
        if nothing_hidden:
            return 0.0 * (outputs.projected_states.sum() + outputs.projected_quantized_states.sum()), None
        return outputs.loss / batch.num_tokens, None

    def evaluate(self, model: nn.Module, accelerator: Accelerator, split: str, *, in_full: bool) -> Evaluated:
        """Every clip is read once, with the same frames hidden in every evaluation."""
        clips = self.prepared.splits[split]
        rows = clips.chosen[evenly_drawn(len(clips.chosen), None if in_full else self.recipe.evaluation.max_examples)]
        found = EncodedClips(clips.rows, clips.labels, rows)
        totals, made = evaluate_contrastive(model, self._held_out(model, found, accelerator.num_processes), accelerator=accelerator)
        seconds = float(clips.rows.waveforms.lengths[rows].sum()) / self._frames.sampling_rate
        counts = {"num_rows": len(rows), "num_frames": totals.num_frames, "num_seconds": round(seconds, 1)}
        figures = {name: metric.compute(totals) for name, metric in CONTRASTIVE_METRICS.items()}
        shown = [self._reported(clips, int(row), result) for row, result in zip(rows, made, strict=True)]
        return Evaluated({**figures, **counts}, shown, "nats per hidden frame")

    def _held_out(self, model: nn.Module, clips: EncodedClips, num_processes: int = 1) -> ContrastiveBatches:
        size = num_processes if self._padding_reaches(model) else self.recipe.evaluation.batch_size
        return ContrastiveBatches(clips, self.prepared.extractor, SpeechBatching(size, EVALUATION_SEED, shuffle=False), self._masking)

    def _reported(self, clips: EncodedClips, row: int, made: ContrastiveRow) -> EvaluatedRow:
        found = f"{made.num_right} of {made.num_hidden} hidden frames found"
        return EvaluatedRow(self.clip_name(clips.rows, row), found, f"{made.num_hidden}", made.nats / max(1, made.num_hidden))

    def preview(self, model: PreTrainedModel) -> str:
        """Some held-out clips: of how many hidden frames the code is found."""
        rows = self.shown_rows(self.recipe.evaluation.sample_examples) if self.recipe.evaluation.sample_examples else []
        if not rows:
            return ""
        clips = EncodedClips(self.shown.rows, self.shown.labels, np.array(rows))
        _, made = evaluate_contrastive(model, self._held_out(model, clips))
        shown = [self._reported(clips, row, result) for row, result in zip(rows, made, strict=True)]
        return "\n".join(f"{row.given} → {row.prediction}" for row in shown)
