"""The packages are laid out as Debian's; where they are installed, they are read as well."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from hflab.data.debian_speech import ASTERISK_SOUNDS, ASTERISK_TEXTS, ROOT, STAMPS, asterisk_clips, split_prompts, stamp_clips
from hflab.data.speech_sources import SPEECH_SOURCES
from hflab.errors import UserError
from hflab.recipe import DataSection
from hflab.speech.audio import wav_bytes

SOUND = wav_bytes(np.zeros(800, np.float32), 8000)


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


@pytest.fixture
def asterisk(tmp_path):
    texts = "; remark\nagent-pass: Please enter your password.\ndigits/1: one\nbeep: [this is a beep]\nhello: hello [laughs] world\nlost: no sound\n"
    write(tmp_path / ASTERISK_TEXTS, gzip.compress(texts.encode()))
    for name in ("agent-pass", "digits/1", "beep", "hello", "untold"):
        write(tmp_path / ASTERISK_SOUNDS / f"{name}.wav", SOUND)
    return str(tmp_path)


@pytest.fixture
def stamps(tmp_path):
    write(tmp_path / STAMPS / "animals" / "wombat.txt", "A wombat.\nfr.utf8=Un wombat.\nfr@x.utf8=non\nru.utf8=Вомбат.\n".encode())
    write(tmp_path / STAMPS / "animals" / "yak.txt", b"A yak.\n")
    write(tmp_path / STAMPS / "empty.txt", b"")
    for name in ("animals/wombat_desc", "animals/wombat_desc_fr", "animals/wombat_desc_ru", "animals/yak_desc_fr", "empty_desc", "animals/owl_desc"):
        write(tmp_path / STAMPS / f"{name}.ogg", SOUND)
    return str(tmp_path)


def test_prompts_of_asterisk(asterisk):
    clips = asterisk_clips(asterisk)
    assert [(clip.audio.name, clip.text.split(), clip.speaker) for clip in clips] == [
        ("agent-pass.wav", ["Please", "enter", "your", "password."], "Allison Smith"),
        ("1.wav", ["one"], "Allison Smith"),
        ("hello.wav", ["hello", "world"], "Allison Smith"),
    ]


@pytest.mark.parametrize(("language", "found"), [("en", [("wombat_desc.ogg", "A wombat.")]), ("fr", [("wombat_desc_fr.ogg", "Un wombat.")])])
def test_stamps_that_are_spoken_and_written(stamps, language, found):
    assert [(Path(clip.audio.name).name, clip.text) for clip in stamp_clips(stamps, language)] == found


def test_a_language_without_stamps_names_those_that_there_are(stamps):
    with pytest.raises(UserError, match=r"spoken and written in 'de' .* en, fr, ru\."):
        stamp_clips(stamps, "de")


@pytest.mark.parametrize(("source", "package"), [("asterisk_prompts", "asterisk-core-sounds-en-wav"), ("tuxpaint_stamps", "tuxpaint-stamps-default")])
def test_a_missing_package_is_named(tmp_path, source, package):
    with pytest.raises(UserError, match=f"apt-get install .*{package}"):
        SPEECH_SOURCES[source](DataSection(source=source, path=str(tmp_path)))


def test_the_same_prompt_is_in_one_split(asterisk):
    clips = asterisk_clips(asterisk)
    texts = [clip._replace(text=f"{word} {number}") for number in range(60) for word, clip in zip(("Say", "say", "SAY"), clips, strict=True)]
    splits = split_prompts(texts)
    assert sum(map(len, splits.values())) == len(texts)
    assert all(len(part) > 0 and len(part) % 3 == 0 for part in splits.values())
    assert len(splits["train"]) > 4 * len(splits["test"])


@pytest.mark.skipif(not Path(ROOT, STAMPS).is_dir(), reason="the Debian package tuxpaint-stamps-default is not installed")
def test_stamps_as_debian_ships_them():
    clips = stamp_clips(None, "fr")
    assert len(clips) > 900
    assert all(clip.audio.is_there and clip.text for clip in clips)


@pytest.mark.skipif(not Path(ROOT, ASTERISK_SOUNDS).is_dir(), reason="the Debian package asterisk-core-sounds-en-wav is not installed")
def test_prompts_as_debian_ships_them():
    clips = asterisk_clips(None)
    assert len(clips) > 400
    assert all(clip.audio.is_there and clip.text for clip in clips)
