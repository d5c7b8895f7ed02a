"""What a speech recogniser got right and wrong, as one HTML page that needs nothing else: no network, no other file, and a script to sort only.

    write_speech_report(Path("report.html"), SpeechReport("Read sentences", "somebody/model", "test split", {"greedy": outputs}))

Knows transcripts, their figures and the bytes of clips; nothing about models, decoders and sound. All text is escaped by the template engine, and
the page's own policy forbids it to fetch anything.
"""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined

from ..errors import UserError, check_choice
from .report_files import write_report_file
from .speech_metrics import (
    SPEECH_METRICS,
    Alignment,
    SpeechMetric,
    SpeechOutputs,
    WordErrorRate,
    bootstrap_interval,
    by_group,
    most_frequent,
    row_errors,
)
from .worst_examples import worst_and_best

MOST_GROUPS = 100  # in a table
MOST_CONFUSIONS = 15  # in a list
FEW = 20  # speakers or rows: with fewer an interval is too narrow to be trusted
ROW_COLUMNS = ("normalizer", "references", "speakers", "conditions", "seconds")
NO_NUMBER = "\N{EN DASH}"
SPACE = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class SpeechReport:
    """What a report tells.

    Raises:
        UserError: there are no decoders, they are not of the same rows, or a name is none of a decoder.
    """

    title: str
    model: str
    data: str
    """Which recordings, such as "somebody/corpus, test split"."""
    decoders: Mapping[str, SpeechOutputs]
    """What was heard, by name of the way to decode: the same rows and normaliser in each."""
    detailed: str | None = None
    """Name of the decoder whose confusions and worst sentences are shown; None for the first."""
    audio_of: Callable[[int], bytes | None] | None = None
    """From a row, counted from 0, to its clip as a WAV file, None where it has no sound; asked for the worst rows only."""
    audio_limit: int = 8_000_000
    """Most bytes that all clips together take in the page, where base64 makes them a third larger."""
    real_time_factors: Mapping[str, float] = field(default_factory=dict)
    """By name of the decoder, seconds of computing per second of sound."""
    notes: Sequence[str] = ()
    """Sentences shown above the figures."""
    circumstances: Mapping[str, str] = field(default_factory=dict)
    """How it was measured: the decoders' settings, the machine, the versions, by what they are called."""
    num_worst: int = 20
    """Sentences shown."""
    seed: int = 0
    """Of the intervals."""

    def __post_init__(self) -> None:
        if not self.decoders:
            raise UserError("A report of speech recognition has 0 decoders; give at least one name with its outputs.")
        for name in (*self.real_time_factors, *([] if self.detailed is None else [self.detailed])):
            check_choice("the name of a decoder", name, self.decoders)
        for name, outputs in self.decoders.items():
            differing = [column for column in ROW_COLUMNS if not _are_same(getattr(outputs, column), getattr(self.first, column))]
            if differing:
                first = next(iter(self.decoders))
                raise UserError(f"The decoders {first!r} and {name!r} differ in: {', '.join(differing)}; give outputs for the same rows.")

    @property
    def first(self) -> SpeechOutputs:
        """Of the first decoder: the rows are the same in all."""
        return next(iter(self.decoders.values()))

    @property
    def shown(self) -> str:
        """Name of the decoder shown in detail."""
        return next(iter(self.decoders)) if self.detailed is None else self.detailed


class Clip(NamedTuple):
    """The sound of a row in the page, or why there is none; neither where no clips are shown."""

    uri: str | None
    reason: str = ""


LEFT_OUT, SILENT = "The clip is left out, see above.", "The clip has no sound."


def write_speech_report(path: Path, report: SpeechReport) -> Path:
    """Write `report` as an HTML page into the file `path`, making its folder; return it.

    Raises:
        UserError: the file cannot be written.
        ValueError: a clip is no WAV file.
    """
    return write_report_file(path, speech_page(report))


def speech_page(report: SpeechReport) -> str:
    """Return the page. Raises `ValueError` if a clip is no WAV file."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    files = resources.files(__package__)
    outputs = report.decoders[report.shown]
    sentences = _sentences(report)
    return environment.from_string((files / "speech_report.html").read_text(encoding="utf-8")).render(
        report=report,
        style=(files / "speech_report_style.css").read_text(encoding="utf-8"),
        script=(files / "speech_report_script.js").read_text(encoding="utf-8"),
        facts=_facts(report),
        figures=_figures(report),
        resampling=_resampling(outputs, report.seed),
        bars=_bars(report),
        tables=[_group_table(report, name) for name in ("speakers", "conditions") if getattr(outputs, name) is not None],
        confusions={operation: most_frequent(outputs, operation, most=MOST_CONFUSIONS) for operation in ("substitution", "deletion", "insertion")},
        sentences=sentences,
        num_left_out=sum(sentence["clip"].reason == LEFT_OUT for sentence in sentences),
        audio_limit=f"{report.audio_limit / 1e6:g}{SPACE}MB",
        joiner=" " if outputs.text.is_spaced else "",
    )


def _facts(report: SpeechReport) -> dict[str, str]:
    """What was measured, in words; the normaliser stands in the page by itself."""
    outputs, counts = report.first, report.first.counts
    facts = {
        "Model": report.model,
        "Data": report.data,
        "Clips": f"{len(outputs.references):,}",
        "Words said": f"{counts.words.sum():,}",
        "Characters said": f"{counts.characters.sum():,}",
    }
    if outputs.seconds is not None:
        facts["Sound"] = _duration(sum(outputs.seconds))
    for name, groups in (("Speakers", outputs.speakers), ("Conditions", outputs.conditions)):
        if groups is not None:
            facts[name] = f"{len(set(groups)):,}"
    return facts


def _figures(report: SpeechReport) -> list[dict[str, Any]]:
    """A line for each figure, with a cell for each decoder."""
    lines = [
        {"name": _title(name), "unit": metric.unit, "cells": [_figure(outputs, metric, report.seed) for outputs in report.decoders.values()]}
        for name, metric in SPEECH_METRICS.items()
    ]
    if report.real_time_factors:
        factors = [report.real_time_factors.get(name) for name in report.decoders]
        cells = [_speed(factor) for factor in factors]
        lines.append({"name": "Real-time factor", "unit": "seconds of computing per second of sound", "cells": cells})
    return lines


def _speed(factor: float | None) -> dict[str, str]:
    """A real-time factor, and how many times as fast as the sound that is."""
    if not factor:
        return {"value": NO_NUMBER, "interval": ""}
    return {"value": f"{factor:.3g}", "interval": f"{1 / factor:,.0f} times real time" if factor < 0.5 else ""}


def _figure(outputs: SpeechOutputs, metric: type[SpeechMetric], seed: int) -> dict[str, str]:
    interval = bootstrap_interval(outputs, metric, seed=seed)
    bounds = "" if math.isnan(interval.low) else f"{100 * interval.low:.2f}{SPACE}to{SPACE}{100 * interval.high:.2f}"
    return {"value": _percent(metric.compute(outputs)), "interval": bounds}


def _resampling(outputs: SpeechOutputs, seed: int) -> dict[str, Any]:
    """Of what the intervals are made, and whether they can be trusted."""
    interval = bootstrap_interval(outputs, WordErrorRate, seed=seed)
    return {
        "exists": not math.isnan(interval.low),
        "of": f"{interval.num_resampled:,} {interval.resampled}",
        "what": interval.resampled,
        "is_few": interval.num_resampled < FEW,
    }


def _bars(report: SpeechReport) -> list[dict[str, Any]]:
    """Of each decoder, the kinds of errors as shares of the highest word error rate."""
    rates = {
        name: {kind: SPEECH_METRICS[f"{kind}_rate"].compute(outputs) for kind in ("substitution", "deletion", "insertion")}
        for name, outputs in report.decoders.items()
    }
    top = max(sum(kinds.values()) for kinds in rates.values())
    if not top > 0:  # no errors, or NaN: no words
        return []
    return [{"name": name, "parts": {kind: f"{rate / top:.4f}" for kind, rate in kinds.items()}} for name, kinds in rates.items()]


def _group_table(report: SpeechReport, column: str) -> dict[str, Any]:
    """The errors by speaker or by condition, the worst of the detailed decoder first."""
    groups: Sequence[str] = getattr(report.decoders[report.shown], column)
    found = by_group(report.decoders[report.shown], groups)
    rates = {name: {group.name: group.word_error_rate for group in by_group(outputs, groups)} for name, outputs in report.decoders.items()}
    shown = found[:MOST_GROUPS]
    top = max((rate for group in shown for rate in [each[group.name] for each in rates.values()] if not math.isnan(rate)), default=0)
    lines = [
        {
            "name": group.name,
            "counts": [group.num_rows, group.num_words],
            "seconds": group.seconds,
            "duration": "" if group.seconds is None else _duration(group.seconds),
            "kinds": [group.substitutions, group.deletions, group.insertions],
            "rates": [_rate(each[group.name], top) for each in rates.values()],
        }
        for group in shown
    ]
    return {"name": column, "lines": lines, "num_groups": len(found), "has_seconds": report.decoders[report.shown].seconds is not None}


def _rate(rate: float, top: float) -> dict[str, str]:
    """A rate in a table, with `share` of the highest for its bar, and `order` for sorting."""
    if math.isnan(rate):
        return {"text": NO_NUMBER, "share": "0", "order": "-1"}
    return {"text": _percent(rate), "share": f"{rate / top if top else 0:.3f}", "order": f"{rate:.6f}"}


def _sentences(report: SpeechReport) -> list[dict[str, Any]]:
    """The rows with most errors per word of the detailed decoder, with what every decoder made of them."""
    outputs = report.decoders[report.shown]
    rows = [row for row in worst_and_best(row_errors(outputs), report.num_worst).worst if outputs.counts.word_errors[row]]
    return [
        {
            "row": row,
            "about": _about(outputs, row),
            "clip": clip,
            "reference": outputs.references[row],
            "heard": {name: _heard(each, row) for name, each in report.decoders.items()},
        }
        for row, clip in zip(rows, _clips(report, rows), strict=True)
    ]


def _about(outputs: SpeechOutputs, row: int) -> list[str]:
    """Who spoke in a row, under what circumstances and how long, as far as it is known."""
    known = [column[row] for column in (outputs.speakers, outputs.conditions) if column is not None]
    return known if outputs.seconds is None else [*known, _duration(outputs.seconds[row])]


def _heard(outputs: SpeechOutputs, row: int) -> dict[str, Any]:
    """A prediction as it was written, its words aligned, and its errors in words."""
    alignment = outputs.alignments[row]
    return {"text": outputs.predictions[row], "pairs": alignment.pairs, "summary": _summary(alignment)}


def _summary(alignment: Alignment) -> str:
    words = alignment.hits + alignment.substitutions + alignment.deletions
    errors = alignment.substitutions + alignment.deletions + alignment.insertions
    kinds = {"substituted": alignment.substitutions, "deleted": alignment.deletions, "inserted": alignment.insertions}
    named = ", ".join(f"{number} {kind}" for kind, number in kinds.items() if number)
    return f"{_count(errors, 'error')} in {_count(words, 'word')}" + (f": {named}" if named else "")


def _clips(report: SpeechReport, rows: Sequence[int]) -> list[Clip]:
    """The clip of each row; one that does not fit any more is left out, and a shorter one after it may still fit."""
    left, clips = report.audio_limit, []
    for row in rows:
        sound = None if report.audio_of is None else report.audio_of(row)
        if sound is None:
            clips.append(Clip(None, "" if report.audio_of is None else SILENT))
            continue
        uri = _data_uri(sound, row)
        if len(uri) > left:
            clips.append(Clip(None, LEFT_OUT))
            continue
        left -= len(uri)
        clips.append(Clip(uri))
    return clips


def _data_uri(sound: bytes, row: int) -> str:
    if sound[:4] != b"RIFF" or sound[8:12] != b"WAVE":
        raise ValueError(f"The clip of row {row} begins with {sound[:12]!r}, which is no WAV file; audio_of must return the bytes of one, or None.")
    return f"data:audio/wav;base64,{base64.b64encode(sound).decode('ascii')}"


def _are_same(column: Sequence[Any] | None, other: Sequence[Any] | None) -> bool:
    return column is other if column is None or other is None else list(column) == list(other)


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _percent(rate: float) -> str:
    return NO_NUMBER if math.isnan(rate) else f"{100 * rate:.2f}{SPACE}%"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def _duration(seconds: float) -> str:
    """A length in the two largest of hours, minutes and seconds that it has; below a minute with a decimal."""
    if seconds < 59.95:
        return f"{seconds:.1f}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min {rest:02d}{SPACE}s"
    return f"{minutes // 60}{SPACE}h {minutes % 60:02d}{SPACE}min"
