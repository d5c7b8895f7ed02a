"""Human speech with its texts out of Debian's packages: telephone prompts of Asterisk, and what the stamps of Tux Paint are called.

    apt-get install asterisk-core-sounds-en asterisk-core-sounds-en-wav        # 25 minutes of English at 8 kHz, one woman
    apt-get install tuxpaint-stamps-default                                    # 15 to 30 minutes each in seven languages

One trained speaker, or a few volunteers who are not named, read short texts: figures are of held-out texts, not of other voices.
"""

import gzip
import re
from pathlib import Path

from ..errors import UserError
from .clips import Clip, Recording
from .example_splits import Example, split_by_hash

ROOT = "/usr/share"
ASTERISK_SOUNDS = "asterisk/sounds/en_US_f_Allison"
ASTERISK_TEXTS = "doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
ASTERISK_SPEAKER = "Allison Smith"
STAMPS = "tuxpaint/stamps"


def asterisk_clips(root: str | None) -> list[Clip]:
    """The prompts that are speech; tones and silences, whose text stands in brackets, are left out.

    Args:
        root: where the packages' `/usr/share` is; default: there.

    Raises:
        UserError: the packages are not there.
    """
    folder = Path(root or ROOT)
    sounds, texts = folder / ASTERISK_SOUNDS, folder / ASTERISK_TEXTS
    if not sounds.is_dir() or not texts.is_file():
        raise UserError(
            f"The prompts of Asterisk are not in {str(folder)!r}; run: apt-get install asterisk-core-sounds-en asterisk-core-sounds-en-wav, or "
            "unpack these two packages elsewhere (dpkg-deb -x) and set data.path to their usr/share."
        )
    clips = []
    for line in gzip.decompress(texts.read_bytes()).decode("utf-8", errors="replace").splitlines():
        name, colon, text = line.partition(":")
        file = sounds / f"{name.strip()}.wav"
        spoken = re.sub(r"\[[^\]]*\]", " ", text).strip()
        if colon and spoken and not line.startswith(";") and file.is_file():
            clips.append(Clip(Recording(file, file.name), spoken, ASTERISK_SPEAKER))
    return clips


def stamp_clips(root: str | None, language: str) -> list[Clip]:
    """What the stamps of Tux Paint are called in a language, for those stamps that somebody has spoken and written down.

    Args:
        root: where the package's `/usr/share` is; default: there.
        language: of its file names, such as "fr"; "en" has 65 clips, most others some 900.

    Raises:
        UserError: the package is not there, or has nothing in this language; the message names those that it has.
    """
    folder = Path(root or ROOT) / STAMPS
    if not folder.is_dir():
        raise UserError(
            f"The stamps of Tux Paint are not in {str(folder.parents[1])!r}; run: apt-get install tuxpaint-stamps-default, or unpack this package "
            "elsewhere (dpkg-deb -x) and set data.path to its usr/share."
        )
    # English has no mark in its file names, and is the first line of a text; the others are lines such as "fr.utf8=Un wombat."
    ending = "_desc.ogg" if language == "en" else f"_desc_{language}.ogg"
    clips = []
    for sound in sorted(folder.rglob(f"*{ending}")):
        text = _stamp_text(sound.with_name(f"{sound.name.removesuffix(ending)}.txt"), language)
        if text:
            clips.append(Clip(Recording(sound, str(sound.relative_to(folder))), text))
    if not clips:
        languages = {"en"} | {sound.stem.rpartition("_desc_")[2].partition(".")[0] for sound in folder.rglob("*_desc_*.ogg")}
        raise UserError(f"No stamp is spoken and written in {language!r} (data.language); there are sounds in: {', '.join(sorted(languages))}.")
    return clips


def split_prompts(clips: list[Clip]) -> dict[str, list[Clip]]:
    """A tenth each for validation and test, by a hash of the text: a prompt that was recorded twice is in one split."""
    examples = [Example(clip.text.lower(), clip) for clip in clips]
    return {name: [example.output for example in drawn] for name, drawn in split_by_hash(examples, {"validation": 0.1, "test": 0.1}).items()}


def _stamp_text(file: Path, language: str) -> str | None:
    if not file.is_file():
        return None
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    if language == "en":
        return lines[0].strip() if lines else None
    return next((text.strip() for line in lines for key, _, text in [line.partition("=")] if key == f"{language}.utf8"), None)
