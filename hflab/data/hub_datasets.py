"""Hub data sets, through `datasets`: the splits, their rows, and what the data set's card says.

This module knows nothing about documents, splitting or tokens.
"""

import contextlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..recipe import DataSection
from .text_files import check_column, check_text

SPLIT_NAMES = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
ROWS_PER_BATCH = 64  # rows may be whole books, so few are held at once
TEXT_INSTEAD = (
    "download a .txt, .jsonl, .csv or .parquet file elsewhere and use it with data.source=text and data.path=FILE, or, for labelled rows, with "
    "data.source=examples"
)
SOUND_INSTEAD = (
    "fetch it elsewhere (hf download --repo-type dataset {name} --local-dir FOLDER) and give the folder instead of the id (data.dataset=FOLDER), or "
    "give sound files with data.source=speech and data.path=FOLDER"
)

TextRows = Callable[[], Iterator[str]]


@dataclass(frozen=True)
class HubTexts:
    """The texts of a Hub data set. `splits` has train and, where the data set has them, validation and test."""

    name: str
    origin: str
    license: str | None
    language: str | None
    splits: dict[str, TextRows]


@dataclass(frozen=True)
class HubRows:
    """The rows of a Hub data set. `splits` has train and, where the data set has them, validation and test, each a `datasets.Dataset`."""

    name: str
    origin: str
    license: str | None
    language: str | None
    splits: dict[str, Any]


def load_hub_rows(data: DataSection, *, audio_column: str | None = None) -> HubRows:
    """Open the data set that `data` names, with fields of nested columns as columns of their own (`translation.en`).

    Args:
        data: names it.
        audio_column: a column of audio, which is handed out as {"bytes", "path"} and not decoded; columns stay nested then.

    Raises:
        UserError: no data set is named, it cannot be had, or has no training split.
    """
    _check_named(data)
    loaded = _load(data, instead=TEXT_INSTEAD if audio_column is None else SOUND_INSTEAD)
    splits = {role: _undecoded(loaded[name], audio_column) if audio_column else loaded[name].flatten() for role, name in _roles(data, loaded).items()}
    return HubRows(splits=splits, **_describe(data, loaded))


def _undecoded(dataset: Any, audio_column: str) -> Any:
    """The data set with its audio as the content of files: decoding by `datasets` needs a package that does not come as a wheel for every torch."""
    from datasets import Audio

    is_audio = isinstance(dataset.features.get(audio_column), Audio)
    return dataset.cast_column(audio_column, Audio(decode=False)) if is_audio else dataset


def load_hub_texts(data: DataSection) -> HubTexts:
    """Open the data set that `data` names. A streamed one is read once, up to `max_characters` per split, and kept in a temporary file.

    Raises:
        UserError: no data set is named, it cannot be had, it has no training split or no such column, or a stream has no limit.
    """
    _check_named(data)
    if data.streaming and data.max_characters is None:
        raise UserError("data.streaming reads without end; set data.max_characters to the number of characters to read of each split.")
    loaded = _load(data)
    splits = {role: _open_split(loaded[name], data, f"The split {name!r} of {data.dataset}") for role, name in _roles(data, loaded).items()}
    return HubTexts(splits=splits, **_describe(data, loaded))


def _check_named(data: DataSection) -> None:
    if data.dataset is None:
        raise UserError("data.source is 'hub', which needs a data set id such as 'user/name'; set data.dataset.")


def _roles(data: DataSection, loaded: Any) -> dict[str, str]:
    """The data set's name of every split that is used. Raises `UserError` if there is none to train on."""
    found = {role: next((name for name in names if name in loaded), None) for role, names in SPLIT_NAMES.items()}
    if found["train"] is None:
        raise UserError(f"The data set {data.dataset!r} has no training split, only: {', '.join(loaded)}. Choose another data set or configuration.")
    return {role: name for role, name in found.items() if name is not None}


def _load(data: DataSection, *, instead: str = TEXT_INSTEAD) -> Any:
    """Return the DatasetDict, or IterableDatasetDict, of `data.dataset`; `instead` as in `_reaching`."""
    import datasets

    try:
        with _reaching(data, instead):
            return datasets.load_dataset(data.dataset, data.config_name, revision=data.revision, streaming=data.streaming)
    except UserError:
        raise
    except ValueError as error:  # a configuration that is missing or unknown, an impossible id
        raise UserError(f"The Hub data set {data.dataset!r} cannot be opened as asked: {error} Check data.dataset and data.config_name.") from error


@contextlib.contextmanager
def _reaching(data: DataSection, instead: str = TEXT_INSTEAD) -> Iterator[None]:
    """Turn errors of the connection into a `UserError` that says how to do without one: what to fetch elsewhere, and how it is given, `instead`."""
    import httpx
    from datasets.exceptions import DatasetBuildError

    try:
        yield
    except (OSError, httpx.HTTPError, DatasetBuildError) as error:  # OSError includes what datasets raises for an unknown id and in offline mode
        raise UserError(
            f"The Hub data set {data.dataset!r} cannot be had: {_first_line(error)}. Check its id and the connection; without one, "
            f"{instead.format(name=data.dataset)}."
        ) from error


def _open_split(dataset: Any, data: DataSection, where: str) -> TextRows:
    with _reaching(data):
        columns = dataset.column_names or list(next(iter(dataset), {}))
    check_column(data.text_column, columns, where)
    chosen = dataset.select_columns([data.text_column])

    def rows() -> Iterator[str]:
        number = 0
        # a stream is read row by row, so that not a row more is fetched than is needed
        batches = chosen.iter(batch_size=1 if data.streaming else ROWS_PER_BATCH)
        while True:
            with _reaching(data):
                batch = next(batches, None)
            if batch is None:
                return
            for value in batch[data.text_column]:
                number += 1
                yield check_text(value, f"{where}, row {number},", data.text_column)

    return _kept(rows, data.max_characters) if data.streaming and data.max_characters else rows


def _kept(rows: TextRows, max_characters: int) -> TextRows:
    """Rows read once, up to `max_characters`, and from then on out of a temporary file: neither fetched again nor changed in between."""
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - closed, and so removed, with the closure that holds it
    complete = False

    def write() -> None:
        left = max_characters
        spool.seek(0)
        spool.truncate()
        for text in rows():
            try:
                spool.write(json.dumps(text[:left]).encode() + b"\n")
                spool.flush()
            except OSError as error:
                folder = tempfile.gettempdir()
                raise UserError(f"The stream cannot be kept in {folder!r}: {error.strerror}. Free some room, or set the variable TMPDIR.") from error
            left -= len(text)
            if left <= 0:
                return

    def read() -> Iterator[str]:
        nonlocal complete
        if not complete:
            write()
            complete = True
        position = 0  # of this reader; several may be at work
        while True:
            spool.seek(position)
            line = spool.readline()
            if not line:
                return
            position = spool.tell()
            yield json.loads(line)

    return read


def _describe(data: DataSection, loaded: Any) -> dict[str, Any]:
    """Name, origin with the commit, licence and language. The commit is that of the Hub, or of the local copy when the Hub is out of reach."""
    import httpx
    from huggingface_hub import HfApi

    assert data.dataset is not None
    if Path(data.dataset).exists():
        name = Path(data.dataset).resolve().name
        return {"name": name, "origin": name, "license": None, "language": None}
    try:
        info = HfApi().dataset_info(data.dataset, revision=data.revision)
        commit, card = info.sha, info.card_data
    except (OSError, httpx.HTTPError):
        commit, card = _downloaded_commit(loaded), None
    return {
        "name": data.dataset,
        "origin": f"{data.dataset}@{commit or data.revision or 'main'}",
        "license": _joined(card.get("license") if card else None),
        "language": _joined(card.get("language") if card else None),
    }


def _downloaded_commit(loaded: Any) -> str | None:
    """The commit in the addresses of the downloaded files, as `datasets` notes them."""
    for split in loaded.values():
        for address in split.info.download_checksums or {}:
            found = re.search(r"@([0-9a-f]{40})/", address)
            if found:
                return found.group(1)
    return None


def _joined(value: str | list[str] | None) -> str | None:
    return ", ".join(value) if isinstance(value, list) else value


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
