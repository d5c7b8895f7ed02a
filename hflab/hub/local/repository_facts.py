"""What the API and the pages tell of a repository: its facts, its files, and the metadata of its card."""

import json
from datetime import datetime
from typing import Any

import yaml
from dulwich.objects import ObjectID

from .git_tree import Entry
from .hub import Hub
from .repository import Repository


def repository_facts(repository: Repository, commit: ObjectID, *, full: bool) -> dict[str, Any]:
    """A repository as the API tells it; with the metadata of its card and its files if `full`."""
    settings = repository.settings()
    card = card_metadata(repository, commit)
    history = next(repository.history(commit))
    facts: dict[str, Any] = {
        "_id": settings["id"],
        "id": repository.name,
        "modelId": repository.name,
        "author": repository.name.split("/")[0],
        "sha": commit.decode(),
        "private": settings["private"],
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "createdAt": settings["created_at"],
        "lastModified": api_date(history.date),
        "tags": card_tags(card),
    }
    facts |= {key: card[key] for key in ("pipeline_tag", "library_name") if isinstance(card.get(key), str)}
    if full:
        facts["cardData"] = card
        facts["siblings"] = [{"rfilename": entry.path} for entry in repository.list_folder(commit, recursive=True) or () if not entry.is_folder]
    return facts


def card_metadata(repository: Repository, commit: ObjectID) -> dict[str, Any]:
    """The metadata block of README.md, or nothing where there is none that can be read."""
    entry = repository.find(commit, "README.md")
    if entry is None or entry.is_folder or entry.lfs:
        return {}
    try:
        metadata = _read_metadata(repository.read(entry).decode(errors="replace"))
    except ValueError:
        return {}
    return dict(json.loads(json.dumps(metadata, default=str)))


def card_tags(card: dict[str, Any]) -> list[str]:
    """What a repository can be found by: the card's tags, languages, data sets and licence."""
    tags = [str(tag) for key in ("tags", "language", "library_name", "pipeline_tag") for tag in _as_list(card.get(key))]
    tags += [f"dataset:{name}" for name in _as_list(card.get("datasets"))]
    tags += [f"license:{name}" for name in _as_list(card.get("license"))]
    return list(dict.fromkeys(tags))


def card_errors(content: Any) -> list[str]:
    """What is wrong with the metadata of a README.md."""
    if not isinstance(content, str):
        return ["content must be the text of README.md"]
    try:
        metadata = _read_metadata(content)
    except ValueError as error:
        return [str(error)]
    errors = []
    for key in ("tags", "datasets", "metrics"):
        if any(not isinstance(value, str) for value in _as_list(metadata.get(key))):
            errors.append(f'"{key}" must be a string or a list of strings')
    return errors


def _read_metadata(card: str) -> dict[str, Any]:
    """The metadata block of a card, empty where it has none. Raises `ValueError` for one that cannot be read."""
    text = card.replace("\r\n", "\n")
    if not text.startswith("---\n"):
        return {}
    end = text.find("\n---", 3)
    if end < 0:
        raise ValueError("the metadata block is not closed by a line of ---")
    try:
        metadata = yaml.safe_load(text[4:end])
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if metadata is not None and not isinstance(metadata, dict):
        raise ValueError("the metadata must be keys with values")
    return metadata or {}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def sibling(entry: Entry) -> dict[str, Any]:
    """A file as the facts of a repository list it, with its size."""
    facts: dict[str, Any] = {"rfilename": entry.path, "blobId": entry.oid, "size": entry.size}
    if entry.lfs:
        facts["lfs"] = {"sha256": entry.lfs.sha256, "size": entry.lfs.size, "pointerSize": entry.lfs.pointer_size}
    return facts


def expanded(hub: Hub, repository: Repository, commit: ObjectID, entry: Entry) -> dict[str, Any]:
    """A file or folder as the API tells it, with the commit that last changed it."""
    last = next(repository.history(commit, entry.path or None), None)
    facts = hub.entry_facts(entry)
    if last is not None:
        facts["lastCommit"] = {"id": last.oid, "title": last.title, "date": api_date(last.date)}
    return facts


def api_date(date: datetime) -> str:
    """A time as the API writes it."""
    return date.strftime("%Y-%m-%dT%H:%M:%S.000Z")
