import ctypes
import errno
import json
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hflab.data import cache_entries, token_store
from hflab.data.batches import prepare_text
from hflab.data.cache_entries import cache_folder
from hflab.errors import UserError
from hflab.recipe import ProcessorSection

TEXT = "The text of this test, 中文 too.\n" * 40
fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def prepare(data, kind="character", **keys):
    return prepare_text(data, ProcessorSection(tokenizer=kind, **keys))


def entries(data):
    return sorted(path.name for path in Path(data.cache_dir, "tokens").iterdir() if path.suffix != ".lock")


def the_entry(data):
    (name,) = entries(data)
    return Path(data.cache_dir, "tokens", name)


def tokens_of(text):
    return {name: np.asarray(split.tokens).tolist() for name, split in text.splits.items()}


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


@pytest.fixture
def writes(monkeypatch):
    """Entries written while the test runs."""
    written = []
    write = cache_entries._write_entry
    monkeypatch.setattr(cache_entries, "_write_entry", lambda entry, *arguments: written.append(entry.name) or write(entry, *arguments))
    return written


@pytest.mark.parametrize("kind", ["character", "byte_bpe", "word"])
def test_a_text_is_tokenised_and_its_tokenizer_trained_once(own_text, writes, monkeypatch, kind):
    data = own_text(TEXT, sequence_length=8)
    first = prepare(data, kind)
    monkeypatch.setattr("hflab.data.batches.build_tokenizer", lambda *arguments: pytest.fail("trained again"))
    second = prepare(data, kind)
    assert len(writes) == 1
    assert tokens_of(first) == tokens_of(second)
    assert first.facts == second.facts
    assert first.tokenizer.backend_tokenizer.to_str() == second.tokenizer.backend_tokenizer.to_str()
    assert all(isinstance(split.tokens, np.memmap) and not split.tokens.flags.writeable for split in second.splits.values())


def test_what_changes_the_tokens_changes_the_entry(own_text, writes):
    variants = [
        prepare(own_text(TEXT, sequence_length=8)),
        prepare(own_text(TEXT + "!", sequence_length=8)),
        prepare(own_text(TEXT, sequence_length=8, max_characters=1000)),
        prepare(own_text(TEXT, sequence_length=8, validation_fraction=0.2)),
        prepare(own_text(TEXT, sequence_length=8, test_fraction=0.1)),
        prepare(own_text(TEXT, sequence_length=8), "word"),
        prepare(own_text(TEXT, sequence_length=8), vocab_size=12),
        prepare(own_text(TEXT, sequence_length=8), min_frequency=50),
    ]
    assert len(set(writes)) == len(writes) == len(variants)
    assert len({text.facts["fingerprint"] for text in variants}) == 3
    prepare(own_text(TEXT, "other_name.txt", sequence_length=16, layout="windows"))
    assert len(writes) == len(variants)


def test_tokenizers_at_hand_have_entries_of_their_own(own_text, writes):
    data = own_text(TEXT, sequence_length=8)
    one, other = prepare(data).tokenizer, prepare(data, vocab_size=12).tokenizer
    writes.clear()
    for tokenizer in (one, other, one, other):
        prepare_text(data, ProcessorSection(), tokenizer=tokenizer)
    assert len(set(writes)) == len(writes) == 2
    assert not (Path(data.cache_dir, "tokens", writes[0]) / "tokenizer.json").exists()


def truncate(entry):
    os.truncate(entry / "train.bin", (entry / "train.bin").stat().st_size - 2)


def grow(entry):
    with (entry / "validation.bin").open("ab") as file:
        file.write(b"\0\0")


def remove_split(entry):
    (entry / "validation.bin").unlink()


def remove_manifest(entry):
    (entry / "manifest.json").unlink()


def cut_manifest(entry):
    content = (entry / "manifest.json").read_text()
    (entry / "manifest.json").write_text(content[: len(content) // 2])


def foreign_manifest(entry):
    (entry / "manifest.json").write_text('{"files": {}, "splits": {"train": {"num_words": 3}}, "dtype": "<u2"}')


def change_tokenizer(entry):
    content = (entry / "tokenizer.json").read_text()
    (entry / "tokenizer.json").write_text(content.replace('"T"', '"Z"'))


@pytest.mark.parametrize("damage", [truncate, grow, remove_split, remove_manifest, cut_manifest, foreign_manifest, change_tokenizer])
def test_a_damaged_entry_is_made_again(own_text, writes, caplog, damage):
    data = own_text(TEXT, sequence_length=8)
    before = prepare(data)
    expected = tokens_of(before), before.tokenizer.get_vocab()
    damage(the_entry(data))
    after = prepare(data)
    assert (tokens_of(after), after.tokenizer.get_vocab()) == expected
    assert len(writes) == 2
    assert "made again" in caplog.text
    prepare(data)
    assert len(writes) == 2


@fork
def test_a_process_killed_in_the_middle_leaves_nothing_that_harms(own_text, writes, monkeypatch):
    data = own_text(TEXT, sequence_length=8)
    write_whole = cache_entries._write_whole

    def killed_before_the_second_file(file, block):
        if Path(file.name).name == "validation.bin":
            os.kill(os.getpid(), signal.SIGKILL)
        write_whole(file, block)

    with monkeypatch.context() as patched:
        patched.setattr(cache_entries, "_write_whole", killed_before_the_second_file)
        process, _ = start_child(lambda: prepare(data))
        process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert entries(data)[0].endswith(".partial")
    expected = tokens_of(prepare(own_text(TEXT, "elsewhere/text.txt", sequence_length=8)))
    assert tokens_of(prepare(data)) == expected
    assert the_entry(data).suffix == ""


@fork
def test_processes_at_once_write_one_entry(own_text, monkeypatch):
    data = own_text(TEXT, sequence_length=8)
    write = cache_entries._write_entry

    def slow_write(entry, *arguments):
        time.sleep(0.5)  # all of them are there before the first has written
        write(entry, *arguments)
        (entry.parent / f"written-by-{os.getpid()}.lock").touch()

    monkeypatch.setattr(cache_entries, "_write_entry", slow_write)
    children = [start_child(lambda: tokens_of(prepare(data))) for _ in range(4)]
    results = [queue.get() for _, queue in children]
    for process, _ in children:
        process.join(60)
    assert results == [tokens_of(prepare(data))] * 4
    assert len(list(Path(data.cache_dir, "tokens").glob("written-by-*"))) == 1


def mount_small_disk(folder, read_only=False):
    """In a forked process: put a file system of 256 kB at `folder`, for this process alone. Returns whether that was possible."""
    os.makedirs(folder)
    libc = ctypes.CDLL(None, use_errno=True)
    new_user, new_mounts, private, recursive = 0x10000000, 0x00020000, 1 << 18, 1 << 14
    flags = new_mounts if os.geteuid() == 0 else new_mounts | new_user
    if libc.unshare(flags) or libc.mount(None, b"/", None, private | recursive, None):
        return False
    return libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", int(read_only), b"size=256k") == 0


def on_small_disk(data, function, **options):
    """Run `function` in a forked process whose cache folder is a small disk; skips where mounting is not allowed."""
    result = in_child(lambda: function() if mount_small_disk(data.cache_dir, **options) else "no mount")
    if result == "no mount":
        pytest.skip("this process may not mount")
    return result


@pytest.mark.skipif(sys.platform != "linux", reason="mounts as Linux knows them")
@pytest.mark.parametrize("kind", ["character", "word"])
def test_a_full_disk_says_what_is_needed_and_leaves_nothing(own_text, kind):
    data = own_text("some words to fill a disk with, " * 20_000, sequence_length=8)

    def fill():
        with pytest.raises(UserError) as caught:
            prepare(data, kind)
        return str(caught.value), entries(data)

    message, left = on_small_disk(data, fill)
    needed, free = (int(number.replace(",", "")) for number in re.search(r"needs about ([\d,]+) bytes, ([\d,]+) are free", message).groups())
    tokens_per_line = {"character": 32, "word": 8}[kind]
    assert needed == pytest.approx(2 * 20_000 * tokens_per_line, rel=0.01)
    assert 200 * 1024 < free <= 256 * 1024  # what was written before the disk was full is removed
    assert "data.cache_dir" in message
    assert left == []


@fork
@pytest.mark.parametrize("kind", ["character", "byte_bpe"])
def test_a_limit_on_the_size_of_files_is_a_full_disk_too(own_text, kind):
    data = own_text("some words to fill a disk with, " * 2000, sequence_length=8)

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
        prepare(data, kind)

    assert re.match(r"UserError: No room for the tokenised text .* it needs about [\d,]+ bytes.*data\.cache_dir", in_child(limited))
    assert entries(data) == []


@pytest.mark.skipif(sys.platform != "linux", reason="mounts as Linux knows them")
def test_a_cache_folder_that_cannot_be_written_names_the_key(own_text):
    data = own_text(TEXT, sequence_length=8)
    message = on_small_disk(data, lambda: prepare(data), read_only=True)
    assert re.match(r"UserError: The cache folder .* cannot be used: Read-only file system\. Set data\.cache_dir", message)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt(), UserError("a bad row")])
def test_an_error_of_the_source_is_not_taken_for_one_of_the_disk(own_text, monkeypatch, error):
    data = own_text(TEXT, sequence_length=8)
    encode = token_store.encode_documents

    def failing(tokenizer, pieces):
        yield from encode(tokenizer, pieces)
        raise error

    monkeypatch.setattr(token_store, "encode_documents", failing)
    with pytest.raises(type(error)) as caught:
        prepare(data)
    assert caught.value is error
    assert entries(data) == []


def test_a_text_that_changes_between_measuring_and_tokenising_is_noticed(own_text, monkeypatch):
    data = own_text(TEXT, sequence_length=8)
    encode = token_store.encode_documents
    monkeypatch.setattr(token_store, "encode_documents", lambda tokenizer, pieces: list(encode(tokenizer, pieces)) * 2)
    with pytest.raises(UserError, match="changed while it was read"):
        prepare(data)
    assert entries(data) == []


def test_the_cache_folder_comes_from_the_section_the_environment_or_home(monkeypatch):
    monkeypatch.setenv("HFLAB_CACHE", "/somewhere/cache")
    assert cache_folder("/given") == Path("/given")
    assert cache_folder(None) == Path("/somewhere/cache")
    monkeypatch.delenv("HFLAB_CACHE")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder(None) == Path("/home/someone/.cache/hflab")


def test_a_manifest_holds_no_path_of_this_machine(own_text, tmp_path):
    data = own_text(TEXT, sequence_length=8)
    prepare(data)
    manifest = (the_entry(data) / "manifest.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in manifest
    assert set(json.loads(manifest)["splits"]) == {"train", "validation"}


MEASURED = """
import json, re, sys
from pathlib import Path
from hflab.data.batches import LanguageModelLanes, ShuffledWindows, prepare_text
from hflab.recipe import DataSection, ProcessorSection

path, cache, kind = sys.argv[1:]
text = prepare_text(DataSection(source="text", path=path, cache_dir=cache), ProcessorSection(tokenizer=kind))
split = text.splits["train"]
shape = dict(sequence_length=128, eos_token_id=text.tokenizer.eos_token_id, reset_at_documents=True)
layouts = [LanguageModelLanes(split.tokens, num_lanes=64, **shape), ShuffledWindows(split.tokens, batch_size=64, seed=1, **shape)]
counted = [sum(batches.batch(step, slice(0, 64)).num_tokens for step in range(batches.steps_per_epoch)) for batches in layouts]
peak = 1024 * int(re.search("VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1))  # ru_maxrss would count the parent's too
print(json.dumps({"peak": peak, "counted": counted, "tokens": split.num_tokens, "bytes": sum(split.num_bytes for split in text.splits.values())}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("kind", "megabytes"), [("character", 300), ("byte_bpe", 40)])
def test_a_big_file_is_tokenised_and_read_within_a_gigabyte(tmp_path, kind, megabytes):
    generator = np.random.default_rng(0)
    words = ["".join(map(chr, generator.integers(97, 123, generator.integers(2, 9)))) for _ in range(20_000)] + ["世界", "\n"]
    with (tmp_path / "big.txt").open("w", encoding="utf-8") as file:
        while file.tell() < megabytes * 10**6:
            file.write(" ".join(generator.choice(words, 200_000)) + "\n")
    arguments = [sys.executable, "-c", MEASURED, str(tmp_path / "big.txt"), str(tmp_path / "cache"), kind]
    measured = json.loads(subprocess.run(arguments, capture_output=True, check=True, text=True).stdout)
    assert measured["counted"] == [measured["tokens"]] * 2
    assert measured["bytes"] >= megabytes * 10**6
    assert measured["peak"] < 700 * 10**6  # of which the imports of torch and transformers take 400
