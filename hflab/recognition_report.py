"""The report of a speech recognizer: its clips recognised once, decoded greedily and with its saved language model, and told as a page.

    opened = open_model("runs/ctc_synthetic_digits", split="test")
    measured = measure_recognizer(opened)
    write_speech_report(Path("report.html"), speech_report(opened, measured, "ctc_synthetic_digits", "its test split"))

Joins what opens models (`measuring.py`) with what scores and shows (`evaluation`). Knows nothing about how the page looks.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from . import __version__
from .data.speech_batches import EncodedClips
from .evaluation.report import Evaluated
from .evaluation.speech_evaluator import Decoder, SpeechDecoding, SpeechResults, evaluate_speech
from .evaluation.speech_metrics import SpeechOutputs, WordErrorRate, bootstrap_interval
from .evaluation.speech_report import FEW, SpeechReport
from .measuring import OpenedModel
from .speech.audio import wav_bytes
from .speech.ctc_beam_search import BeamOptions, beam_decode
from .speech.ctc_decoding import CtcAlphabet, Transcript, greedy_decode
from .speech.language_model import NgramModel
from .training.facts import hardware_facts, package_versions
from .training.speech_recognition import SpeechRecognition

GREEDY, WITH_LANGUAGE_MODEL = "greedy", "with language model"
SHOWN_VERSIONS = ("python", "torch", "transformers")


@dataclass(frozen=True)
class MeasuredRecognizer:
    """What was heard in the clips of a split by each way to decode."""

    results: SpeechResults
    decoders: dict[str, SpeechOutputs]
    """The first is the one that the figures of the evaluation are of."""
    settings: dict[str, str]
    """Of each decoder, in words."""
    clips: EncodedClips
    names: list[str]
    """Of the clips that were heard."""

    @property
    def evaluated(self) -> Evaluated:
        """As an evaluation without a report gives it."""
        return self.results.evaluated(self.names)

    @property
    def real_time_factors(self) -> dict[str, float]:
        """Seconds of work per second of sound by decoder; empty where the clips hold no sound."""
        if not self.results.seconds:
            return {}
        return {name: seconds / self.results.seconds for name, seconds in zip(self.decoders, self.results.work_seconds.values(), strict=True)}


def measure_recognizer(opened: OpenedModel) -> MeasuredRecognizer:
    """Recognise every clip of the split once; the scores are decoded as an evaluation would, and beside it with the saved language model."""
    task = _task(opened)
    clips, section = task.prepared.splits[opened.split], task.recipe.evaluation
    ways = _ways(opened)
    first, *others = ways
    with tqdm(total=len(clips.chosen), desc="recognising", unit=" clips", disable=None, leave=False) as progress:
        decoders = {name: decoder for name, (decoder, _) in ways.items()}
        last = list(ways)[-1]
        decoders[last] = _telling(decoders[last], progress)
        results = evaluate_speech(
            opened.model,
            task.tokenizer,
            clips,
            task.prepared.extractor,
            SpeechDecoding(section.batch_size, task.recipe.processor.normalizer, decoders[first], {name: decoders[name] for name in others}),
            accelerator=opened.accelerator,
        )
    return MeasuredRecognizer(
        results=results,
        decoders={first: results.outputs, **results.others},
        settings={name: words for name, (_, words) in ways.items()},
        clips=clips,
        names=[task.clip_name(clips.rows, int(row)) for row in clips.chosen],
    )


def _task(opened: OpenedModel) -> SpeechRecognition:
    assert isinstance(opened.task, SpeechRecognition), "other tasks have no such report"
    return opened.task


def _ways(opened: OpenedModel) -> dict[str, tuple[Decoder, str]]:
    """Decoders and their settings in words: first that of an evaluation, as `evaluation.num_beams` has it."""
    num_beams, saved = opened.task.recipe.evaluation.num_beams, opened.decoder
    greedy: tuple[Decoder, str] = (greedy_decode, "the likeliest token of each frame")
    if saved is not None:
        chosen = saved if num_beams == 1 else dataclasses.replace(saved, num_beams=num_beams)
        with_it = (_beams(chosen), _in_words(chosen))
        return {GREEDY: greedy, WITH_LANGUAGE_MODEL: with_it} if num_beams == 1 else {WITH_LANGUAGE_MODEL: with_it, GREEDY: greedy}
    if num_beams == 1:
        return {GREEDY: greedy}
    chosen = BeamOptions(num_beams=num_beams)
    return {f"{num_beams} beams": (_beams(chosen), _in_words(chosen)), GREEDY: greedy}


def _beams(options: BeamOptions) -> Decoder:
    return functools.partial(beam_decode, options=options)


def _in_words(options: BeamOptions) -> str:
    model = options.language_model
    if model is None:
        return f"beam search, {options.num_beams} beams, no language model"
    name = f"{model.order}-grams" if isinstance(model, NgramModel) else "n-grams"
    return (
        f"beam search, {options.num_beams} beams; {name} of weight {options.language_model_weight:g}, {options.word_bonus:+g} for each word, "
        f"{-options.unknown_word_penalty:+g} for one that they do not know"
    )


def _telling(decode: Decoder, progress: Any) -> Decoder:
    """The decoder, which tells of the clips that are done."""

    def telling(log_probabilities: Tensor, lengths: Tensor, alphabet: CtcAlphabet) -> list[Transcript]:
        heard = decode(log_probabilities, lengths, alphabet)
        progress.update(len(heard))
        return heard

    return telling


def speech_report(opened: OpenedModel, measured: MeasuredRecognizer, model: str, data: str) -> SpeechReport:
    """The page about a recognizer, with the sound of the worst clips.

    Args:
        opened: the model with its data.
        measured: what was heard in them.
        model: what it is called.
        data: what the clips are called.
    """
    detailed = WITH_LANGUAGE_MODEL if WITH_LANGUAGE_MODEL in measured.decoders else next(iter(measured.decoders))
    return SpeechReport(
        title=f"{model} on {data}",
        model=f"{model} ({type(opened.model).__name__}, {_num_parameters(opened):,} parameters)",
        data=_data_in_words(opened),
        decoders=measured.decoders,
        detailed=detailed,
        audio_of=functools.partial(_clip, measured.clips),
        real_time_factors=measured.real_time_factors,
        notes=speech_notes(opened),
        circumstances=_circumstances(opened, measured),
    )


def report_notes(opened: OpenedModel, measured: MeasuredRecognizer) -> list[str]:
    """What a report in Markdown says above its figures: the decoders beside each other, the normaliser, and what the page warns of too."""
    outputs = measured.results.outputs
    which = "The table and the rows are of the first of these. " if len(measured.decoders) > 1 else ""
    return [
        *(f"{name.capitalize()}: {_rate_in_words(each)}; {measured.settings[name]}." for name, each in measured.decoders.items()),
        f"{which}Normalizer {outputs.normalizer}: {outputs.text.summary}",
        *speech_notes(opened),
        "; ".join(f"{name}: {value}" for name, value in _machine(opened, measured).items()) + ".",
    ]


def _rate_in_words(outputs: SpeechOutputs) -> str:
    rate, interval = WordErrorRate.compute(outputs), bootstrap_interval(outputs, WordErrorRate, seed=0)
    if math.isnan(interval.low):
        return f"{100 * rate:.2f} % of the words wrong"
    return (
        f"{100 * rate:.2f} % of the words wrong ({100 * interval.low:.2f} to {100 * interval.high:.2f}, 95 % interval over "
        f"{interval.num_resampled:,} {interval.resampled}{'' if interval.num_resampled >= FEW else ', too narrow with so few'})"
    )


def _clip(clips: EncodedClips, row: int) -> bytes | None:
    """The sound of a chosen clip as the model hears it, before features; None where it is empty."""
    waveforms = clips.rows.waveforms
    waveform = waveforms.waveform(int(clips.chosen[row]))
    return wav_bytes(waveform, waveforms.sampling_rate) if len(waveform) else None


def _num_parameters(opened: OpenedModel) -> int:
    return sum(weights.numel() for weights in opened.model.parameters())


def _data_in_words(opened: OpenedModel) -> str:
    facts = opened.task.prepared.facts
    return f"{facts['name']}, {opened.split} split"


def speech_notes(opened: OpenedModel) -> Sequence[str]:
    """What a reader of the figures must know: that nobody speaks, that the clips were trained on, or that the decoder was tuned on them."""
    facts, saved = opened.task.prepared.facts, opened.decoder
    notes = []
    if facts["is_synthetic"]:
        notes.append(f"{facts['description']} The figures say nothing about how well people are understood.")
    if opened.is_own_data and opened.split == "train":
        notes.append("The model was trained on these clips: the figures say nothing about others.")
    if saved is not None and opened.is_own_data and opened.split == "validation":
        notes.append("The language model's weights were chosen on these clips, so its figures are a little too good; those of another split are not.")
    if saved is not None and saved.language_model is not None and saved.language_model_weight == 0:
        used = "it says which words there are, not which follow each other" if saved.unknown_word_penalty > 0 else "nothing of it is used"
        notes.append(f"The language model has weight 0: {used}.")
    return notes


def _circumstances(opened: OpenedModel, measured: MeasuredRecognizer) -> dict[str, str]:
    return {
        **{name.capitalize(): words for name, words in measured.settings.items()},
        **_machine(opened, measured),
        "Real-time factor": "features, model and decoder, the work of all processes added up; reading and resampling of files left out",
    }


def _machine(opened: OpenedModel, measured: MeasuredRecognizer) -> dict[str, str]:
    """What was run, and on what."""
    hardware = hardware_facts(opened.accelerator.device, opened.accelerator.num_processes)
    processes = hardware["num_processes"]
    threads = torch.get_num_threads()
    versions = package_versions()
    return {
        "Read at a time": f"{opened.task.recipe.evaluation.batch_size} clips",
        "Run on": f"{hardware['device']} ({hardware['processor']}, {hardware['num_cpus']} CPUs), {processes} "
        f"process{'' if processes == 1 else 'es'} with {threads} thread{'' if threads == 1 else 's'}{'' if processes == 1 else ' each'}",
        "Versions": ", ".join([f"hflab {__version__}", *(f"{name} {versions[name]}" for name in SHOWN_VERSIONS)]),
    }
