"""Clips of synthetic speech: voices of espeak-ng that say digits, commands, or sentences of the user, in noise.

    splits = synthetic_clips(SyntheticPlan(sentences="commands", num_clips=2400))

A voice speaks in one split only, so that held-out figures are of voices that were never heard. Everything follows from the seed. Knows nothing about
the sound itself (`hflab.speech.synthesis`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError, nearest
from .clips import Clip, Spoken
from .text_files import decoded_blocks

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
ENGLISH_ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
ESPEAK_NAMES = {"zh": "cmn", "pt": "pt-br"}  # where espeak-ng's name of a language is not its ISO 639 code
# the variants of timbre that sound like people, of those that espeak-ng brings: no robots, whispers and croaks
TIMBRES = [
    "m1",
    "m2",
    "m3",
    "m4",
    "m5",
    "m6",
    "m7",
    "m8",
    "f1",
    "f2",
    "f3",
    "f4",
    "f5",
    "adam",
    "Alex",
    "Alicia",
    "Andrea",
    "Andy",
    "Annie",
    "anika",
    "antonio",
    "aunty",
    "belinda",
    "benjamin",
    "boris",
    "caleb",
    "david",
    "Denis",
    "Diogo",
    "ed",
    "edward",
    "Gene",
    "grandma",
    "grandpa",
    "gustave",
    "Henrique",
    "Hugo",
    "ian",
    "iven",
    "Jacky",
    "john",
    "kaukovalta",
    "Lee",
    "linda",
    "marcelo",
    "Marco",
    "Mario",
    "max",
    "Michael",
    "michel",
    "miguel",
    "Mike",
    "Nguyen",
    "norbert",
    "pablo",
    "paul",
    "pedro",
    "quincy",
    "rob",
    "robert",
    "sandro",
    "shelby",
    "steph",
    "travis",
    "victor",
    "zac",
]
# timbres that differ from another one hardly more than one voice does from itself at a pitch 5 higher: in log-mel features of the same words the
# mean distance of two frames is 0.27 to 0.60, and 2.3 in the median of all pairs. They train, so that no held-out voice has a twin in training.
TWINS = {"adam", "benjamin", "Diogo", "Henrique", "Hugo", "michel", "miguel"}
NUM_HELD_OUT_VOICES = {"validation": 6, "test": 12}
HELD_OUT_SHARE = 8  # a held-out split has one clip for so many of training
NOISE_LEVELS = (30, 20, 10)  # signal to noise, in dB
MOST_SENTENCE_CHARACTERS = 300


@dataclass(frozen=True)
class SyntheticPlan:
    """What is spoken, how often, and in which language."""

    sentences: str
    """A key of `GRAMMARS`, or a UTF-8 text file with a sentence on each line."""
    num_clips: int
    """Of the training split."""
    language: str = "en"
    """ISO 639 code."""
    seed: int = 1


def synthetic_clips(plan: SyntheticPlan) -> dict[str, list[Clip]]:
    """The clips of train, validation and test, each voice's together.

    Raises:
        UserError: `sentences` is neither a grammar, which is English, nor a file of sentences.
    """
    if plan.sentences in GRAMMARS and plan.language.split("-")[0] != "en":
        raise UserError(
            f"data.sentences is {plan.sentences!r}, which is English, and data.language is {plan.language!r}; give a text file with a sentence of "
            "that language on each line."
        )
    draw_sentence = GRAMMARS.get(plan.sentences) or _lines_of(plan.sentences)
    generator = np.random.default_rng(plan.seed)
    held_out = -(-plan.num_clips // HELD_OUT_SHARE)
    counts = {"train": plan.num_clips, "validation": held_out, "test": held_out}
    return {
        split: sorted(
            (_draw_clip(voices[number % len(voices)], draw_sentence(generator), generator) for number in range(counts[split])),
            key=lambda clip: clip.speaker or "",
        )
        for split, voices in _draw_voices(plan.language, generator).items()
    }


def digits(generator: np.random.Generator) -> str:
    """One to six digits."""
    return " ".join(generator.choice(DIGITS, size=generator.integers(1, 7)))


def commands(generator: np.random.Generator) -> str:
    """A command to a house or a machine, or a number, of about 80 different words."""
    return COMMANDS[generator.integers(len(COMMANDS))](generator)


def number(generator: np.random.Generator) -> str:
    """A number from zero to nine hundred and ninety nine, as it is said; every length is as likely."""
    length = generator.integers(3)
    if length == 0:
        return str(generator.choice(DIGITS))
    below_hundred = str(generator.choice(TEENS)) if generator.random() < 0.3 else str(generator.choice(TENS))
    if below_hundred in TENS and generator.random() < 0.7:
        below_hundred += " " + str(generator.choice(DIGITS[1:]))
    return below_hundred if length == 1 else f"{generator.choice(DIGITS[1:])} hundred and {below_hundred}"


GRAMMARS: dict[str, Callable[[np.random.Generator], str]] = {"digits": digits, "commands": commands}


def _one_of(words: str) -> Callable[[np.random.Generator], str]:
    choices = words.split(",")
    return lambda generator: str(generator.choice(choices))


def _pattern(text: str, **parts: Callable[[np.random.Generator], str]) -> Callable[[np.random.Generator], str]:
    """Draws each part of `text` that stands in braces."""
    return lambda generator: text.format(**{name: part(generator) for name, part in parts.items()})


_ROOM = _one_of("kitchen,bedroom,bathroom,garage,office")
_DEVICE = _one_of("light,lamp,fan,heater,radio")
COMMANDS: tuple[Callable[[np.random.Generator], str], ...] = (
    _pattern("turn {state} the {room} {device}", state=_one_of("on,off"), room=_ROOM, device=_DEVICE),
    _pattern("set the {what} to {number}", what=_one_of("volume,temperature,timer,alarm"), number=number),
    _pattern("{do} the {room} {what}", do=_one_of("open,close,lock"), room=_ROOM, what=_one_of("door,window,gate")),
    _pattern("go {way} {number} {unit}", way=_one_of("up,down,left,right,forward,back"), number=number, unit=_one_of("steps,meters")),
    _pattern("{do} {number}", do=_one_of("call,play track,read page"), number=number),
    _one_of("stop,start,yes,no,help,next song,what time is it,cancel the alarm"),
    number,
)


def _lines_of(path: str) -> Callable[[np.random.Generator], str]:
    """Draws a line of the file. Raises `UserError` if there is none."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(
            f"data.sentences is {path!r}, which is no file; give a UTF-8 text file with a sentence on each line or: {', '.join(GRAMMARS)}."
            f"{nearest(path, GRAMMARS)}"
        )
    lines = [" ".join(line.split()) for line in "".join(decoded_blocks(file)).split("\n") if line.strip()]
    if not lines:
        raise UserError(f"The file {path!r} of data.sentences has no sentences; give it one on each line.")
    longest = max(lines, key=len)
    if len(longest) > MOST_SENTENCE_CHARACTERS:
        raise UserError(
            f"A line of {path!r} has {len(longest)} characters ({longest[:40]!r} …); cut it into sentences of at most {MOST_SENTENCE_CHARACTERS}."
        )
    return lambda generator: lines[generator.integers(len(lines))]


def _draw_voices(language: str, generator: np.random.Generator) -> dict[str, Sequence[str]]:
    """The voices of each split, an accent and a timbre each; no timbre is in two splits, and no twins are."""
    accents = ENGLISH_ACCENTS if language == "en" else (ESPEAK_NAMES.get(language, language),)
    timbres = generator.permutation(TIMBRES).tolist()
    num_validation, num_test = NUM_HELD_OUT_VOICES["validation"], NUM_HELD_OUT_VOICES["test"]
    held_out = num_validation + num_test
    without_twin = [number for number in range(held_out, len(timbres)) if timbres[number] not in TWINS]
    for number in range(held_out):
        if timbres[number] in TWINS:
            other = without_twin.pop()
            timbres[number], timbres[other] = timbres[other], timbres[number]
    voices = [f"{accents[number % len(accents)]}+{timbre}" for number, timbre in enumerate(timbres)]
    return {"train": voices[held_out:], "validation": voices[:num_validation], "test": voices[num_validation:held_out]}


def _draw_clip(voice: str, text: str, generator: np.random.Generator) -> Clip:
    level = int(generator.choice(NOISE_LEVELS))
    spoken = Spoken(
        voice=voice,
        text=text,
        speed=int(generator.integers(130, 211)),
        pitch=int(generator.integers(30, 71)),
        signal_to_noise=level,
        noise=str(generator.choice(["white", "pink", "brown"])),
        peak=float(generator.uniform(0.1, 0.9)),
        silence=(float(generator.uniform(0.1, 0.4)), float(generator.uniform(0.1, 0.4))),
        seed=int(generator.integers(2**31)),
    )
    return Clip(spoken, text, voice, f"{level} dB")
