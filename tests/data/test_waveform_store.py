import ctypes
import functools
import hashlib
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hflab.data import cache_entries, waveform_store
from hflab.data.clips import Clip, Recording, Spoken
from hflab.data.waveform_store import MOST_TOGETHER, clips_by_maker, open_waveforms
from hflab.errors import UserError
from hflab.speech.audio import as_floats, as_integers, read_waveform

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("scipy")

RATE = 8000
fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def noise(seed, seconds=0.3):
    return as_floats(as_integers(np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * RATE)).astype(np.float32)))


@pytest.fixture
def recorded(tmp_path):
    """Clips of noise written on the spot, each of another length."""

    def recorded(count=5, suffix=".wav"):
        (tmp_path / "sounds").mkdir(exist_ok=True)
        clips = []
        for number in range(count):
            file = tmp_path / "sounds" / f"{number}{suffix}"
            soundfile.write(file, noise(number, 0.1 + 0.05 * number), RATE)
            clips.append(Clip(Recording(file, file.name), f"text {number}"))
        return clips

    return recorded


def spoken(text="one two", voice="en-us+m1", **keys):
    how = {"speed": 175, "pitch": 50, "signal_to_noise": 20.0, "noise": "pink", "peak": 0.5, "silence": (0.2, 0.3), "seed": 3}
    return Clip(Spoken(voice=voice, text=text, **(how | keys)), text, voice)


@pytest.fixture
def opened(tmp_path):
    """Opens clips from the cache of the test."""
    return lambda clips, rate=RATE: open_waveforms(tmp_path / "cache", clips, rate)


def entries(folder):
    return sorted(path.name for path in (folder / "waveforms").iterdir() if path.suffix != ".lock")


def the_entry(folder):
    (name,) = entries(folder)
    return folder / "waveforms" / name


def all_of(waveforms):
    return [waveforms.waveform(number).tolist() for number in range(len(waveforms))]


@pytest.fixture
def reads(monkeypatch):
    """Names of recordings that are decoded, and voices that speak, while the test runs."""
    made = []
    read, speak = waveform_store.read_waveform, waveform_store.speak
    monkeypatch.setattr(waveform_store, "read_waveform", lambda source, rate, **keys: made.append(keys["name"]) or read(source, rate, **keys))
    monkeypatch.setattr(waveform_store, "speak", lambda voice, *rest: made.append(voice) or speak(voice, *rest))
    return made


def start_child(function):
    """Run `function` in a forked process; its result, or its exception's text, comes through the queue."""

    def target():
        try:
            queue.put(function())
        except UserError as error:
            queue.put(f"UserError: {error}")

    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=target)
    process.start()
    return process, queue


def in_child(function):
    process, queue = start_child(function)
    process.join(60)
    assert process.exitcode == 0
    return queue.get()


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_clips_are_decoded_once_and_stay_on_disk(recorded, opened, reads, suffix):
    clips = recorded(5, suffix)
    first, again = opened(clips), opened(clips)
    assert sorted(reads) == sorted(clip.audio.name for clip in clips)
    for number, clip in enumerate(clips):
        expected = read_waveform(clip.audio.source, RATE)
        for waveforms in (first, again):
            assert waveforms.waveform(number).dtype == np.float32
            assert np.array_equal(waveforms.waveform(number), expected)
    assert again.lengths.tolist() == [800, 1200, 1600, 2000, 2400]
    assert len(again) == 5
    assert isinstance(again.samples, np.memmap)
    assert not again.samples.flags.writeable
    assert again.samples.dtype == np.int16
    assert (first.fingerprint, first.sampling_rate) == (again.fingerprint, RATE)


def test_parts_of_a_recording_and_sounds_in_memory_are_clips_too(recorded, opened):
    file = recorded(1)[0].audio.source
    whole = read_waveform(file, RATE)
    parts = [
        Recording(file, "a", 0.01, 0.05),
        Recording(file, "b", 0.05),
        Recording(file.read_bytes(), "c"),
        Recording(file.read_bytes, "d", 0.0, 0.02),
    ]
    found = opened([Clip(part, "") for part in parts])
    expected = [whole[80:400], whole[400:], whole, whole[:160]]
    assert all_of(found) == [samples.tolist() for samples in expected]


def test_what_changes_the_sound_changes_the_entry(recorded, opened, tmp_path):
    clips = recorded(3)
    one, two, three = clips
    cut = Clip(Recording(one.audio.source, "0.wav", 0.0, 0.05), "")
    in_memory = Clip(Recording(one.audio.source.read_bytes(), "0.wav"), "")
    variants = [clips, [three, two, one], [one, two], [one], [cut], [in_memory]]
    fingerprints = {opened(variant).fingerprint for variant in variants} | {opened(clips, 16000).fingerprint}
    assert len(entries(tmp_path / "cache")) == 7
    assert len(fingerprints) == 6  # the same sound from memory and from a file
    opened([Clip(clip.audio, "another text", "a speaker", "a room") for clip in clips])
    opened([Clip(Recording(clip.audio.source, "another name"), "") for clip in clips])
    assert len(entries(tmp_path / "cache")) == 7


def test_a_changed_file_is_decoded_anew(recorded, opened, tmp_path):
    clips = recorded(2)
    before = opened(clips)
    time.sleep(0.01)
    soundfile.write(clips[0].audio.source, noise(9, 0.1), RATE)  # as long as before
    after = opened(clips)
    assert np.array_equal(after.waveform(0), noise(9, 0.1))
    assert np.array_equal(after.waveform(1), before.waveform(1))
    assert before.fingerprint != after.fingerprint
    assert len(entries(tmp_path / "cache")) == 2


def test_a_link_that_leads_elsewhere_is_decoded_anew(recorded, opened, tmp_path):
    one, two = recorded(2)
    link = tmp_path / "link.wav"
    link.symlink_to(one.audio.source)
    clips = [Clip(Recording(link, "link"), "")]
    assert np.array_equal(opened(clips).waveform(0), read_waveform(one.audio.source, RATE))
    link.unlink()
    link.symlink_to(two.audio.source)
    assert np.array_equal(opened(clips).waveform(0), read_waveform(two.audio.source, RATE))


def test_clips_that_are_cut_elsewhere_have_another_fingerprint(recorded, opened):
    """All samples together are the same."""
    file = recorded(1)[0].audio.source
    one, other = (opened([Clip(Recording(file, "", 0, cut), ""), Clip(Recording(file, "", cut), "")]) for cut in (0.02, 0.05))
    assert np.array_equal(one.samples, other.samples)
    assert one.fingerprint != other.fingerprint


def test_synthetic_clips_are_spoken_once_by_a_process_for_each_voice(opened, reads):
    pytest.importorskip("espeakng_loader")
    clips = [spoken("one", seed=1), spoken("two", seed=2), spoken("one", "en-us+f1"), spoken("one", seed=1)]
    first, again = opened(clips, 16000), opened(clips, 16000)
    assert sorted(reads) == ["en-us+f1", "en-us+m1", "en-us+m1"]  # the fourth clip is no neighbour of the second
    assert all_of(first) == all_of(again)
    assert not np.array_equal(first.waveform(0), first.waveform(2))
    assert np.array_equal(first.waveform(0), first.waveform(3))


def test_an_utterance_has_its_level_silence_and_noise(opened):
    pytest.importorskip("espeakng_loader")
    quiet, loud, noisy, long = all_clips = [
        spoken(peak=0.1, signal_to_noise=60.0),
        spoken(peak=0.9, signal_to_noise=60.0),
        spoken(peak=0.9, signal_to_noise=0.0),
        spoken(peak=0.9, signal_to_noise=60.0, silence=(0.5, 0.3)),
    ]
    assert len(all_clips) == len({quiet, loud, noisy, long})
    # each by itself: espeak-ng says a word a little differently every time
    made = [opened([clip], 16000).waveform(0) for clip in all_clips]
    assert [float(np.abs(waveform).max()) for waveform in made[:2]] == pytest.approx([0.1, 0.9], abs=0.01)
    assert len(made[3]) - len(made[1]) == pytest.approx(0.3 * 16000, abs=1)
    assert np.abs(made[1][:3000]).max() < 0.01
    assert np.std(made[2][:3000]) > 0.02
    power = np.mean(made[1].astype(np.float64) ** 2)
    assert np.mean((made[2] - made[1]).astype(np.float64) ** 2) == pytest.approx(power, rel=0.1)


def test_nothing_to_say_is_silence_and_not_divided_by_zero(opened):
    pytest.importorskip("espeakng_loader")
    (waveform,) = all_of(opened([spoken("", signal_to_noise=10.0)], 16000))
    assert 0.5 * 16000 <= len(waveform) < 0.7 * 16000
    assert np.abs(waveform).max() == 0


def test_no_process_speaks_more_than_its_share():
    one_voice = [spoken(seed=number) for number in range(2 * MOST_TOGETHER + 1)]
    assert [len(group) for group in clips_by_maker(one_voice)] == [MOST_TOGETHER, MOST_TOGETHER, 1]
    recording = Clip(Recording(Path("a.wav"), "a"), "")
    assert [len(group) for group in clips_by_maker([recording, recording, *one_voice[:2], recording])] == [1, 1, 2, 1]
    groups = clips_by_maker([*one_voice, recording])
    assert [audio for group in groups for audio in group] == [clip.audio for clip in (*one_voice, recording)]


def test_another_version_of_the_synthesizer_speaks_anew(opened, tmp_path, monkeypatch):
    pytest.importorskip("espeakng_loader")
    opened([spoken()])
    monkeypatch.setattr(waveform_store, "espeak_version", lambda: "9.9")
    opened([spoken()])
    assert len(entries(tmp_path / "cache")) == 2


def test_recordings_need_no_synthesizer(recorded, opened, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    assert len(opened(recorded(1))) == 1


def truncate(entry):
    os.truncate(entry / "samples.bin", (entry / "samples.bin").stat().st_size - 2)


def grow(entry):
    with (entry / "samples.bin").open("ab") as file:
        file.write(b"\0\0")


def remove_samples(entry):
    (entry / "samples.bin").unlink()


def remove_manifest(entry):
    (entry / "manifest.json").unlink()


def cut_manifest(entry):
    content = (entry / "manifest.json").read_text()
    (entry / "manifest.json").write_text(content[: len(content) // 2])


def change_manifest(change):
    def damage(entry):
        facts = json.loads((entry / "manifest.json").read_text())
        (entry / "manifest.json").write_text(json.dumps(change(facts)))

    return damage


DAMAGES = {
    "truncated": truncate,
    "grown": grow,
    "without samples": remove_samples,
    "without manifest": remove_manifest,
    "cut manifest": cut_manifest,
    "other manifest": change_manifest(lambda facts: [facts]),
    "no lengths": change_manifest(lambda facts: {"sha256": "0"}),
    "no fingerprint": change_manifest(lambda facts: {"lengths": facts["lengths"]}),
    "words for lengths": change_manifest(lambda facts: facts | {"lengths": ["one", "two"]}),
    "fewer clips": change_manifest(lambda facts: facts | {"lengths": [sum(facts["lengths"])]}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_made_again(recorded, opened, tmp_path, caplog, reads, damage):
    clips = recorded(2)
    before = all_of(opened(clips))
    DAMAGES[damage](the_entry(tmp_path / "cache"))
    assert all_of(opened(clips)) == before
    assert "made again" in caplog.text
    assert len(reads) == 4
    opened(clips)
    assert len(reads) == 4


def test_recordings_that_cannot_be_read_are_named_together(recorded, opened, tmp_path):
    clips = recorded(7)
    for number in (1, 2, 4, 5, 6):
        clips[number].audio.source.write_text("no sound")
    with pytest.raises(UserError) as caught:
        opened(clips)
    message = str(caught.value)
    assert [name for name in ("1.wav", "2.wav", "4.wav", "5.wav", "6.wav") if f"{name} cannot be decoded" in message] == ["1.wav", "2.wav", "4.wav"]
    assert "And 2 more. `hflab data check` lists all such recordings." in message
    assert entries(tmp_path / "cache") == []


def test_a_recording_that_is_not_there_is_named_by_its_row(opened, tmp_path):
    gone = tmp_path / "gone.wav"
    with pytest.raises(UserError, match=rf"Line 3 of m\.csv names the sound 'gone\.wav', and there is no file '{re.escape(str(gone))}'"):
        opened([Clip(Recording(gone, "gone.wav", listed="Line 3 of m.csv"), "")])
    with pytest.raises(UserError, match=rf"There is no recording '{re.escape(str(gone))}'; check the path"):
        opened([Clip(Recording(gone, "gone.wav"), "")])
    with pytest.raises(UserError, match="There is no recording"):
        opened([Clip(Recording(lambda: gone, "gone.wav"), "")])


def test_an_unknown_voice_stops_at_once(opened, tmp_path):
    pytest.importorskip("espeakng_loader")
    with pytest.raises(UserError, match="espeak-ng has no voice 'xx'"):
        opened([spoken(voice="xx")])
    assert entries(tmp_path / "cache") == []


@fork
def test_a_process_killed_in_the_middle_leaves_nothing_that_harms(recorded, opened, tmp_path, monkeypatch):
    clips = recorded(4)
    write_whole = cache_entries._write_whole
    blocks = []

    def killed_at_the_third_clip(file, block):
        blocks.append(block)
        if len(blocks) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        write_whole(file, block)

    with monkeypatch.context() as patched:
        patched.setattr(cache_entries, "_write_whole", killed_at_the_third_clip)
        process, _ = start_child(lambda: opened(clips))
        process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert entries(tmp_path / "cache")[0].endswith(".partial")
    assert all_of(opened(clips)) == [read_waveform(clip.audio.source, RATE).tolist() for clip in clips]
    assert the_entry(tmp_path / "cache").suffix == ""


@fork
def test_processes_at_once_decode_once(recorded, opened, tmp_path, monkeypatch):
    clips = recorded(3)
    write = waveform_store._write

    def slow_write(partial, *arguments):
        time.sleep(0.5)  # all of them are there before the first has written
        write(partial, *arguments)
        (tmp_path / f"written-by-{os.getpid()}").touch()

    monkeypatch.setattr(waveform_store, "_write", slow_write)
    children = [start_child(lambda: all_of(opened(clips))) for _ in range(3)]
    results = [queue.get() for _, queue in children]
    for process, _ in children:
        process.join(60)
    assert results == [all_of(opened(clips))] * 3
    assert len(list(tmp_path.glob("written-by-*"))) == 1


def mount_small_disk(folder):
    """In a forked process: put a file system of 64 kB at `folder`, for this process alone. Returns whether that was possible."""
    os.makedirs(folder)
    libc = ctypes.CDLL(None, use_errno=True)
    new_user, new_mounts, private, recursive = 0x10000000, 0x00020000, 1 << 18, 1 << 14
    flags = new_mounts if os.geteuid() == 0 else new_mounts | new_user
    if libc.unshare(flags) or libc.mount(None, b"/", None, private | recursive, None):
        return False
    return libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=64k") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="mounts as Linux knows them")
def test_a_full_disk_is_said_and_nothing_is_left(recorded, opened, tmp_path):
    clips = recorded(20)

    def fill():
        if not mount_small_disk(tmp_path / "cache"):
            return "no mount"
        with pytest.raises(UserError) as caught:
            opened(clips)
        return str(caught.value), entries(tmp_path / "cache")

    found = in_child(fill)
    if found == "no mount":
        pytest.skip("this process may not mount")
    message, left = found
    assert re.match(r"No room for the decoded audio in .*: it needs more bytes, [\d,]+ are free\. .*data\.cache_dir", message)
    assert left == []


@fork
def test_a_limit_on_the_size_of_files_is_a_full_disk_too(recorded, opened, tmp_path):
    clips = recorded(5)

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
        opened(clips)

    assert re.match(r"UserError: No room for the decoded audio .*data\.cache_dir", in_child(limited))
    assert entries(tmp_path / "cache") == []


def test_the_manifest_holds_no_path_of_this_machine(recorded, opened, tmp_path):
    opened(recorded(2))
    manifest = (the_entry(tmp_path / "cache") / "manifest.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in manifest
    assert json.loads(manifest)["lengths"] == [800, 1200]


def test_sounds_of_a_data_set_are_not_all_in_memory_at_once(recorded, opened, monkeypatch):
    """What hands out the content is asked for one clip after the other."""
    monkeypatch.setattr(waveform_store, "GROUPS_AT_ONCE", 2)
    held = []

    def content(file):
        held.append(hashlib.sha256(file.read_bytes()).hexdigest())
        return file.read_bytes()

    clips = [Clip(Recording(functools.partial(content, clip.audio.source), clip.audio.name), "") for clip in recorded(4)]
    found = opened(clips)
    assert len(held) == 8  # each once for the key of the entry and once to be decoded
    assert all_of(found) == [read_waveform(clip.audio.source.args[0], RATE).tolist() for clip in clips]


def test_the_cache_may_be_removed_while_it_is_read(recorded, opened, tmp_path):
    waveforms = opened(recorded(2))
    expected = all_of(waveforms)
    shutil.rmtree(tmp_path / "cache")
    assert all_of(waveforms) == expected
