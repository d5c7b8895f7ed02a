from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest

from hflab.data.clips import Spoken
from hflab.data.speech_sources import SPEECH_SOURCES
from hflab.data.synthetic_speech import (
    COMMANDS,
    DIGITS,
    ENGLISH_ACCENTS,
    GRAMMARS,
    MOST_SENTENCE_CHARACTERS,
    NOISE_LEVELS,
    NUM_HELD_OUT_VOICES,
    TIMBRES,
    TWINS,
    SyntheticPlan,
    synthetic_clips,
)
from hflab.errors import UserError
from hflab.recipe import DataSection, Recipe
from hflab.speech.noise import NOISES
from hflab.speech.text_normalization import NORMALIZERS


def speakers(clips):
    return {clip.speaker for clip in clips}


def timbre(voice):
    return voice.partition("+")[2]


@pytest.mark.parametrize("sentences", GRAMMARS)
@pytest.mark.parametrize("num_clips", [8, 100, 1000])
def test_splits_have_as_many_clips_as_planned_and_no_voice_in_common(sentences, num_clips):
    splits = synthetic_clips(SyntheticPlan(sentences, num_clips))
    held_out = -(-num_clips // 8)
    assert {name: len(clips) for name, clips in splits.items()} == {"train": num_clips, "validation": held_out, "test": held_out}
    timbres = {name: {timbre(voice) for voice in speakers(clips)} for name, clips in splits.items()}
    assert sum(map(len, timbres.values())) == len(set.union(*timbres.values()))
    num_voices = {**NUM_HELD_OUT_VOICES, "train": len(TIMBRES) - sum(NUM_HELD_OUT_VOICES.values())}
    assert {name: len(speakers(clips)) for name, clips in splits.items()} == {
        name: min(len(clips), num_voices[name]) for name, clips in splits.items()
    }


@pytest.mark.parametrize("seed", range(5))
def test_timbres_that_are_nearly_one_are_in_one_split(seed):
    splits = synthetic_clips(SyntheticPlan("digits", 96, seed=seed))
    timbres = {name: {clip.speaker.split("+")[1] for clip in clips} for name, clips in splits.items()}
    assert set(TIMBRES) >= TWINS
    assert timbres["train"] >= TWINS
    assert not (timbres["validation"] | timbres["test"]) & timbres["train"]


def test_every_voice_of_a_split_says_as_much():
    for clips in synthetic_clips(SyntheticPlan("digits", 1000)).values():
        counts = Counter(clip.speaker for clip in clips).values()
        assert max(counts) - min(counts) <= 1
        assert [clip.speaker for clip in clips] == sorted(clip.speaker for clip in clips)  # each voice's together


def test_clips_vary_within_their_limits():
    clips = [clip for split in synthetic_clips(SyntheticPlan("commands", 2000)).values() for clip in split]
    spoken = [clip.audio for clip in clips]
    assert all(
        isinstance(audio, Spoken) and audio.text == clip.text and audio.voice == clip.speaker for audio, clip in zip(spoken, clips, strict=True)
    )
    assert {clip.condition for clip in clips} == {f"{level} dB" for level in NOISE_LEVELS}
    assert {audio.noise for audio in spoken} == set(NOISES)
    assert {voice.partition("+")[0] for voice in speakers(clips)} == set(ENGLISH_ACCENTS)
    assert len({audio.seed for audio in spoken}) == len(spoken)
    limits = {"speed": (130, 210), "pitch": (30, 70), "peak": (0.1, 0.9), "signal_to_noise": (10, 30)}
    for name, (low, high) in limits.items():
        values = [getattr(audio, name) for audio in spoken]
        assert low <= min(values) < low + (high - low) / 5
        assert high - (high - low) / 5 < max(values) <= high
    assert all(0.1 <= seconds <= 0.4 for audio in spoken for seconds in audio.silence)
    assert all(type(value) in (str, int, float, tuple) for value in asdict(spoken[0]).values())  # JSON, as the store's keys need


def test_all_follows_from_the_seed():
    one, again, other = (synthetic_clips(SyntheticPlan("commands", 100, seed=seed)) for seed in (1, 1, 2))
    assert one == again
    for split in one:
        assert {clip.text for clip in one[split]} != {clip.text for clip in other[split]}
        assert speakers(one[split]) != speakers(other[split])


def test_digits_are_one_to_six_of_ten_words():
    texts = [clip.text for clip in synthetic_clips(SyntheticPlan("digits", 2000))["train"]]
    words = Counter(word for text in texts for word in text.split())
    assert set(words) == set(DIGITS)
    assert max(words.values()) < 1.2 * min(words.values())
    assert set(Counter(len(text.split()) for text in texts)) == set(range(1, 7))


def test_commands_have_82_words_and_all_are_said():
    clips = synthetic_clips(SyntheticPlan("commands", 5000))["train"]
    assert len({word for clip in clips for word in clip.text.split()}) == 82
    texts = {clip.text for clip in clips}
    assert len(texts) > 1500
    assert all(NORMALIZERS["basic"].normalize(text) == text for text in texts)
    assert {"turn", "lock", "cancel", "hundred", "seventeen", "meters"} <= {text.split()[0] for text in texts} | {
        word for text in texts for word in text.split()
    }
    generator = np.random.default_rng(0)
    assert all(command(generator) for command in COMMANDS)


def test_own_sentences_are_said_as_they_stand(write):
    path = write("said.txt", "Hello,  there!\n\n  你好 \r\nline\u2028separator\n")
    splits = synthetic_clips(SyntheticPlan(path, 80))
    assert {clip.text for clip in splits["train"]} == {"Hello, there!", "你好", "line separator"}
    assert {clip.text for clips in splits.values() for clip in clips} == {"Hello, there!", "你好", "line separator"}


@pytest.mark.parametrize(("language", "accent"), [("de", "de"), ("zh", "cmn"), ("pt", "pt-br"), ("en-us", "en-us")])
def test_another_language_has_one_accent(write, language, accent):
    splits = synthetic_clips(SyntheticPlan(write("said.txt", "eins\nzwei"), 100, language))
    assert {voice.partition("+")[0] for clips in splits.values() for voice in speakers(clips)} == {accent}
    assert not speakers(splits["train"]) & speakers(splits["test"])


@pytest.mark.parametrize(
    ("sentences", "content", "fragments"),
    [
        ("digit", None, ["'digit', which is no file", "digits, commands", "Did you mean 'digits'?"]),
        ("nowhere.txt", None, ["'nowhere.txt', which is no file"]),
        (".", None, ["'.', which is no file"]),
        ("", None, ["which is no file"]),
        ("blank.txt", "\n \n\t\n", ["has no sentences"]),
        ("empty.txt", "", ["has no sentences"]),
        ("long.txt", "short\n" + "w" * (MOST_SENTENCE_CHARACTERS + 1), [f"{MOST_SENTENCE_CHARACTERS + 1} characters", "cut it"]),
        ("latin.txt", "caf\u00e9 au lait".encode("latin-1"), ["is not UTF-8", "iconv -f latin-1"]),
        ("binary.txt", b"\0\1\2", ["is binary"]),
    ],
)
def test_sentences_that_cannot_be_said_are_refused(write, sentences, content, fragments):
    with pytest.raises(UserError) as caught:
        synthetic_clips(SyntheticPlan(sentences if content is None else write(sentences, content), 8))
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize("sentences", GRAMMARS)
def test_english_grammars_are_not_read_by_voices_of_another_language(sentences):
    with pytest.raises(UserError, match=rf"'{sentences}', which is English, and data\.language is 'de'; give a text file"):
        synthetic_clips(SyntheticPlan(sentences, 8, "de"))


def test_the_source_says_that_machines_speak(write):
    pytest.importorskip("espeakng_loader")
    raw = SPEECH_SOURCES["synthetic_speech"](DataSection(source="synthetic_speech", num_clips=8))
    assert (raw.is_synthetic, raw.language, raw.license) == (True, "en", "apache-2.0")
    assert raw.origin.startswith("espeakng-loader==")
    assert "say digits, with" in raw.description
    assert "No human speaks" in raw.description
    path = write("prompts", "eins zwei")
    own = SPEECH_SOURCES["synthetic_speech"](DataSection(source="synthetic_speech", num_clips=8, sentences=path, language="de"))
    assert "say the sentences of prompts, with" in own.description
    assert own.language == "de"


def test_a_published_recipe_has_no_path_of_this_machine(write):
    recipe = Recipe(data=DataSection(source="synthetic_speech", sentences=write("said.txt", "one"), cache_dir="/somewhere"))
    assert recipe.public().data.sentences == "said.txt"
    assert Recipe(data=DataSection(sentences="commands")).public().data.sentences == "commands"
