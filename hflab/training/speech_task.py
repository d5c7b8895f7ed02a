"""What tasks that learn from clips of speech share: what reads the clips, and how they are named and shown. What a `Task` is stands in `task.py`."""

from pathlib import Path

from transformers import SequenceFeatureExtractor

from ..data.speech_batches import EncodedClips
from ..data.speech_corpus import SpeechRows
from ..data.speech_preparation import feature_statistics
from ..data.speech_sources import SPEECH_SOURCES
from ..errors import UserError, check_choice
from ..evaluation.sharing import evenly_drawn
from ..recipe import Recipe
from ..speech.audio import wav_bytes
from .speech_models import SpeechReader, family_extractor, family_reader, pretrained_reader
from .task import Task, TrainedProcessor

SAMPLE_FILE = "sample.wav"
# share of the longest clip by which others may be shorter that are trained on together where padding does harm: in a small group-norm model so much
# changed the likeliest token of 1 % of held-out frames, a quarter of a clip that of 8 %, and as much padding as clip that of 11 %
NEARLY_EQUAL = 0.01


class SpeechTask(Task):
    """A task whose model hears."""

    hears = True

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """The source must have speech, at possible speeds."""
        check_choice(f"data.source for {recipe.task}", recipe.data.source, SPEECH_SOURCES)
        speeds = recipe.data.speed_percents
        if not speeds or not all(isinstance(speed, int) and 50 <= speed <= 200 for speed in speeds):
            raise UserError(f"data.speed_percents is {speeds}; give whole numbers from 50 to 200, such as [90, 100, 110].")

    def reader(self, trained: TrainedProcessor | None = None) -> SpeechReader:
        """What the model reads and writes with: that of the model that is `trained`, or of the recipe's pretrained model, or of its family."""
        if trained is not None:
            assert trained.config is not None, "who evaluates a model that hears says what it is"
            return SpeechReader(trained.config, trained.feature_extractor, trained.tokenizer)
        section = self.recipe.model
        return family_reader(section) if section.pretrained is None else pretrained_reader(section, writes=self.has_tokenizer)

    def extractor_of(self, reader: SpeechReader, rows: SpeechRows | None = None) -> SequenceFeatureExtractor:
        """The reader's feature extractor, or one for a family's new model, which normalises by the statistics of `rows`."""
        if reader.extractor is not None:
            return reader.extractor
        measure = None if rows is None else lambda features: feature_statistics(rows, features)
        return family_extractor(self.recipe.model, reader.config, measure)

    def save_processor(self, folder: Path) -> None:
        """The feature extractor; and a held-out clip to try the model on, where nobody's voice is given away by it."""
        self.prepared.extractor.save_pretrained(folder)
        if self.prepared.corpus.raw.is_synthetic:
            waveforms = self.shown.rows.waveforms
            folder.joinpath(SAMPLE_FILE).write_bytes(wav_bytes(waveforms.waveform(self.shown_rows(1)[0]), waveforms.sampling_rate))

    @property
    def prompt(self) -> str:
        """The name of the clip beside the model."""
        return SAMPLE_FILE

    @staticmethod
    def clip_name(rows: SpeechRows, row: int) -> str:
        """What a clip is called where it is shown: its number from 1, its speaker and condition."""
        known = [value for value in (rows.speakers[row], rows.conditions[row]) if value]
        return f"clip {row + 1}" + (f" ({', '.join(known)})" if known else "")

    @property
    def shown(self) -> EncodedClips:
        """The held-out clips that previews show."""
        return self.prepared.splits["validation" if "validation" in self.prepared.splits else "train"]

    def shown_rows(self, count: int) -> list[int]:
        """Numbers of some of them, evenly drawn."""
        chosen = self.shown.chosen
        return [int(chosen[place]) for place in evenly_drawn(len(chosen), count)]
