"""The prompts of the Asterisk telephone system: 25 minutes of one woman's voice at 8 kHz, with their texts, out of two packages of Debian.

    apt-get install asterisk-core-sounds-en asterisk-core-sounds-en-wav

Real human speech, if of one trained speaker and of telephone sentences; figures on it are of prompts that were not trained on, not of other voices.
"""

import gzip
import re
from pathlib import Path

from ..errors import UserError
from .clips import Clip, Recording
from .example_splits import Example, split_by_hash

ROOT = "/usr/share"
SOUNDS = "asterisk/sounds/en_US_f_Allison"
TEXTS = "doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
SPEAKER = "Allison Smith"


def asterisk_clips(root: str | None) -> list[Clip]:
    """The prompts that are speech; tones and silences, whose text stands in brackets, are left out.

    Args:
        root: where the packages' `/usr/share` is; default: there.

    Raises:
        UserError: the packages are not there.
    """
    folder = Path(root or ROOT)
    sounds, texts = folder / SOUNDS, folder / TEXTS
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
            clips.append(Clip(Recording(file, file.name), spoken, SPEAKER))
    return clips


def split_prompts(clips: list[Clip]) -> dict[str, list[Clip]]:
    """A tenth each for validation and test, by a hash of the text: a prompt that was recorded twice is in one split."""
    examples = [Example(clip.text.lower(), clip) for clip in clips]
    return {name: [example.output for example in drawn] for name, drawn in split_by_hash(examples, {"validation": 0.1, "test": 0.1}).items()}
