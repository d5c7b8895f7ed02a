"""Words with times become subtitles, and those a file: SRT, WebVTT, JSON or plain text.

    found = captions([CaptionWord("Good", 0.4, 0.6), CaptionWord("morning.", 0.6, 1.1)])
    Path("talk.vtt").write_text(to_vtt(found), encoding="utf-8")

A column is the width of a Latin letter; a Chinese, Japanese or Korean character takes two. All times are in seconds from the start of the
recording. This module knows nothing about sound and models.
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import UserError

# of the full-width punctuation the narrow form stands for both: see `narrow`
SENTENCE_ENDS, CLAUSE_ENDS = (".", "!", "?", "。", "।", "؟", "\u06d4"), (",", ";", ":", "、", "،", "؛")
QUOTES = "\"'»”\u2019)]」』】"  # may stand between the end of a sentence and that of its last word
CLOSING = {*".,;:!?%)]}»”\u2019。、\u3015〉》」』】"}  # never begin a line, and have no space before them
# writing without spaces between words: Thai, Lao, Burmese, Khmer, kana and Chinese characters with their punctuation, full-width forms
SPACELESS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
)
SPLIT_COST, CLAUSE_COST, SHORT_COST, UNEVEN_COST = 0.6, 0.3, 0.5, 0.2  # in captions: what is added to 1 for each, when a phrase is divided
LEAST_SHOWN = 0.001  # the unit of time of every format


class CaptionWord(NamedTuple):
    """A word, or a character of a language without spaces, with its punctuation."""

    text: str
    start: float
    end: float
    confidence: float | None = None
    """0 to 1."""


class Caption(NamedTuple):
    """What is shown at once."""

    start: float
    """In seconds, a whole number of milliseconds, as `end`."""
    end: float
    lines: tuple[str, ...]
    text: str
    """All on one line."""
    words: tuple[CaptionWord, ...]
    """As they were given. A word too long for a line belongs to the caption in which it begins."""


@dataclass(frozen=True)
class CaptionOptions:
    """How words are grouped. Raises `UserError` for values out of range."""

    max_columns: int = 42
    """Of a line, 10 or more."""
    max_lines: int = 2
    """Of a caption, 1 or more."""
    max_seconds: float = 7.0
    """No caption is shown longer; more than `min_seconds`."""
    min_seconds: float = 1.0
    """Every caption is shown so long, unless the next one comes sooner."""
    pause_seconds: float = 0.6
    """After a longer pause a new caption begins."""
    joiner: str | None = None
    """What stands between words; default: nothing beside a character of a script without spaces, elsewhere a space."""

    def __post_init__(self) -> None:
        if self.max_columns < 10 or self.max_lines < 1:
            raise UserError(f"max_columns is {self.max_columns} and max_lines {self.max_lines}, but they must be 10 and 1 or more; give larger ones.")
        if not (0 <= self.min_seconds < self.max_seconds < math.inf and self.pause_seconds >= 0):
            raise UserError(
                f"min_seconds is {self.min_seconds}, max_seconds {self.max_seconds} and pause_seconds {self.pause_seconds}, but none may be "
                "negative, and the first must be less than the second; give other numbers."
            )


class _Unit(NamedTuple):
    """What is never divided: a word with the punctuation that follows it, or a part of a word too long for a line."""

    text: str
    start: float
    end: float
    glue: str
    """What stands before it on the same line."""
    width: int
    """In columns, without the glue."""
    words: tuple[CaptionWord, ...]


def columns(text: str) -> int:
    """The width of a text: two for a wide or full-width character, none for a combining one, else one."""
    return sum(0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF") for char in text)


def clean(text: str) -> str:
    """The text on one line, with single spaces and without control characters, which no format of subtitles allows."""
    return " ".join("".join(" " if unicodedata.category(char) == "Cc" else char for char in text).split())


def narrow(text: str) -> str:
    """The text with the usual punctuation in place of the full-width one, for comparisons."""
    return unicodedata.normalize("NFKC", text)


def glue_between(left: str, right: str, *, joiner: str | None) -> str:
    """What stands between two texts on a line; `joiner` as in `CaptionOptions`."""
    if not left or not right or CLOSING.issuperset(narrow(right)):
        return ""
    if joiner is not None:
        return joiner
    return "" if SPACELESS.match(left[-1]) or SPACELESS.match(right[0]) else " "


def captions(words: Sequence[CaptionWord], options: CaptionOptions | None = None) -> list[Caption]:
    """Group words into captions: at pauses first, then where the fewest captions break at the ends of sentences and clauses.

    The captions are in order and do not overlap. Words without text are left out.

    Args:
        words: in order of their starts. They may overlap and be of no length.
        options: default: `CaptionOptions()`.

    Raises:
        UserError: for a time that is negative, not finite, or before the word's start or the last word's start, and for a confidence
            outside 0 to 1.
    """
    options = options or CaptionOptions()
    check_words(words)
    units = [part for unit in _units(words, options) for part in _parts(unit, options)]
    groups: list[list[_Unit]] = []
    for phrase in _phrases(units, options):
        groups.extend(_divide(phrase, options))
    return _timed(groups, options)


def check_words(words: Sequence[CaptionWord]) -> None:
    """Raise `UserError` for times and confidences that cannot be: see `captions`."""
    previous = 0.0
    for index, word in enumerate(words):
        what = f"word {index}, {word.text!r},"
        if not (math.isfinite(word.start) and math.isfinite(word.end) and 0 <= word.start <= word.end):
            raise UserError(
                f"{what} is from {word.start} to {word.end} seconds; times count from the recording's start, and no end is before its start."
            )
        if word.start < previous:
            raise UserError(f"{what} starts at {word.start} seconds, but the word before it at {previous}; give the words in order of their starts.")
        if word.confidence is not None and not 0 <= word.confidence <= 1:
            raise UserError(f"{what} has the confidence {word.confidence}, but it must be from 0 to 1; give probabilities, not their logarithms.")
        previous = word.start


def _units(words: Sequence[CaptionWord], options: CaptionOptions) -> list[_Unit]:
    """The words cleaned, each with the closing punctuation that follows it as a word of its own."""
    units: list[_Unit] = []
    for word in words:
        text = clean(word.text)
        if not text:
            continue
        if units and CLOSING.issuperset(narrow(text)):  # it is not spoken: the time remains the word's
            last = units[-1]
            units[-1] = last._replace(text=last.text + text, width=last.width + columns(text), words=(*last.words, word))
        else:
            glue = glue_between(units[-1].text, text, joiner=options.joiner) if units else ""
            units.append(_Unit(text, word.start, word.end, glue, columns(text), (word,)))
    return units


def _parts(unit: _Unit, options: CaptionOptions) -> list[_Unit]:
    """The unit itself, or parts of it that fit on a line, divided at its spaces if it has any; its time is shared by their widths."""
    if unit.width <= options.max_columns:
        return [unit]
    parts: list[_Unit] = []
    passed, seconds = 0, (unit.end - unit.start) / unit.width
    for text, glue in _pieces(unit.text, options.max_columns):
        start, passed = unit.start + seconds * passed, passed + columns(glue + text)
        first = not parts
        parts.append(_Unit(text, start, unit.start + seconds * passed, unit.glue if first else glue, columns(text), unit.words if first else ()))
    return parts


def _pieces(text: str, most: int) -> list[tuple[str, str]]:
    """Pieces of at most `most` columns, each with the space that was before it, or nothing."""
    pieces: list[tuple[str, str]] = []
    for word in text.split(" "):
        piece, glue = "", " " if pieces else ""
        for char in word:
            if columns(piece + char) > most:
                pieces.append((piece, glue))
                piece, glue = "", ""
            piece += char
        pieces.append((piece, glue))
    return pieces


def _phrases(units: list[_Unit], options: CaptionOptions) -> list[list[_Unit]]:
    """Divide at the pauses."""
    phrases: list[list[_Unit]] = []
    heard = 0.0
    for unit in units:
        if not phrases or unit.start - heard > options.pause_seconds:
            phrases.append([])
        phrases[-1].append(unit)
        heard = max(heard, unit.end)
    return phrases


def _divide(phrase: list[_Unit], options: CaptionOptions) -> list[list[_Unit]]:
    """The cheapest division of a phrase into captions that fit, by dynamic programming from its end.

    `best[i]` is the cost of the best division of the units from `i` on, `stop[i]` where its first caption ends.
    """
    count = len(phrase)
    best, stop = [math.inf] * count + [0.0], list(range(1, count + 1))
    for first in range(count - 1, -1, -1):
        for after, width in _fitting(phrase, first, options):
            cost = _cost(phrase, first, after, fullness=width / (options.max_columns * options.max_lines), options=options) + best[after]
            if cost < best[first]:
                best[first], stop[first] = cost, after
    groups, first = [], 0
    while first < count:
        groups.append(phrase[first : stop[first]])
        first = stop[first]
    return groups


def _fitting(phrase: list[_Unit], first: int, options: CaptionOptions) -> Iterator[tuple[int, int]]:
    """The index after the last unit, and the width, of each caption that begins with unit `first` and fits; one of that unit alone always does."""
    num_lines, line, width, end = 1, -1, 0, 0.0
    for index in range(first, len(phrase)):
        unit, glue = phrase[index], columns(phrase[index].glue)
        end = max(end, unit.end)
        if index > first and line + glue + unit.width > options.max_columns:
            num_lines, line = num_lines + 1, unit.width
        else:
            line = unit.width if index == first else line + glue + unit.width
        width += unit.width + glue * (index > first)
        if index > first and (num_lines > options.max_lines or end - phrase[first].start > options.max_seconds):
            return
        yield index + 1, width


def _cost(phrase: list[_Unit], first: int, after: int, *, fullness: float, options: CaptionOptions) -> float:
    """One caption, and what is bad about it: much shorter than it might be, shown too briefly, or broken off in a clause or sentence."""
    cost = 1 + UNEVEN_COST * (1 - fullness) ** 2
    if after == len(phrase):
        return cost
    last, following = phrase[after - 1], phrase[after]
    if following.start - phrase[first].start < options.min_seconds:
        cost += SHORT_COST
    end = narrow(last.text.rstrip(QUOTES))
    if end.endswith(SENTENCE_ENDS):
        return cost
    return cost + max(0.0, (CLAUSE_COST if end.endswith(CLAUSE_ENDS) else SPLIT_COST) - max(0.0, following.start - last.end))


def _joined(units: Sequence[_Unit]) -> str:
    return "".join(unit.glue * (index > 0) + unit.text for index, unit in enumerate(units))


def _fill(group: list[_Unit], most: int) -> list[list[_Unit]]:
    """Lines of at most `most` columns, each filled before the next is begun."""
    lines, width = [group[:1]], group[0].width
    for unit in group[1:]:
        longer = width + columns(unit.glue) + unit.width
        if longer <= most:
            lines[-1].append(unit)
            width = longer
        else:
            lines.append([unit])
            width = unit.width
    return lines


def _lines(group: list[_Unit], options: CaptionOptions) -> tuple[str, ...]:
    """As few lines as it takes, and those as even as can be."""
    lines = fewest = _fill(group, options.max_columns)
    for most in range(options.max_columns - 1, max(unit.width for unit in group) - 1, -1):
        narrower = _fill(group, most)
        if len(narrower) > len(fewest):
            break
        lines = narrower
    return tuple(_joined(line) for line in lines)


def _timed(groups: list[list[_Unit]], options: CaptionOptions) -> list[Caption]:
    """Give each group the time in which it is shown, in whole milliseconds: from its first word on, never into the next one's time."""
    starts: list[float] = []
    for group in groups:  # words at one time, which aligners do give, may be in two captions
        starts.append(round(max(group[0].start, starts[-1] + LEAST_SHOWN if starts else 0.0), 3))
    found = []
    for group, start, following in zip(groups, starts, [*starts, math.inf][1:], strict=True):
        wanted = max(max(unit.end for unit in group), start + options.min_seconds, start + LEAST_SHOWN)
        end = round(min(wanted, start + options.max_seconds, following), 3)
        words = tuple(word for unit in group for word in unit.words)
        found.append(Caption(start, end, _lines(group, options), _joined(group), words))
    return found


def time_stamp(seconds: float, *, mark: str) -> str:
    """HH:MM:SS, `mark` and milliseconds; a hundred hours and more have three digits and more."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{mark}{rest % 1000:03d}"


def to_srt(captions: Sequence[Caption]) -> str:
    """SubRip. It has no escapes: an arrow like that between its times becomes "→"."""
    return "".join(
        f"{number}\n{time_stamp(caption.start, mark=',')} --> {time_stamp(caption.end, mark=',')}\n"
        + "".join(re.sub("-{2,}>", "→", line) + "\n" for line in caption.lines)
        + "\n"
        for number, caption in enumerate(captions, start=1)
    )


def to_vtt(captions: Sequence[Caption]) -> str:
    """WebVTT (w3.org/TR/webvtt1). "&", "<" and ">" are escaped, and with the last every arrow."""
    cues = (
        f"\n{number}\n{time_stamp(caption.start, mark='.')} --> {time_stamp(caption.end, mark='.')}\n"
        + "".join(line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") + "\n" for line in caption.lines)
        for number, caption in enumerate(captions, start=1)
    )
    return "WEBVTT\n" + "".join(cues)


def to_json(captions: Sequence[Caption]) -> str:
    """All that is known: the captions, their lines, and their words with times and confidences."""
    described = [caption._asdict() | {"words": [word._asdict() for word in caption.words]} for caption in captions]
    return json.dumps({"captions": described}, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def to_text(spoken: Sequence[Caption] | Sequence[CaptionWord], *, joiner: str | None = None) -> str:
    """Plain text: each caption on a line, or all words on one.

    Args:
        spoken: captions or words.
        joiner: between words, as in `CaptionOptions`; captions have been joined already.
    """
    lines = [""] if spoken and isinstance(spoken[0], CaptionWord) else []
    for item in spoken:
        if isinstance(item, Caption):
            lines.append(item.text)
        else:
            text = clean(item.text)
            lines[0] += glue_between(lines[0], text, joiner=joiner) + text
    return "".join(line + "\n" for line in lines)


WRITERS: dict[str, Callable[[Sequence[Caption]], str]] = {"txt": to_text, "json": to_json, "srt": to_srt, "vtt": to_vtt}
"""The writer of each file name extension."""
