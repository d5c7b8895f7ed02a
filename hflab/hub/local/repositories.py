"""All repositories below a root: made, opened, renamed and removed, each in one step.

    repositories = Repositories(root)
    repositories.create("model", "ada/lstm", private=False, author="ada")

One process at a time may own the root. Knows nothing about HTTP, tokens and blobs.
"""

import json
import re
import secrets
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from dulwich.objects import Blob
from dulwich.refs import Ref
from dulwich.repo import Repo

from .blobs import write_file
from .git_tree import edit_tree
from .repository import DEFAULT_BRANCH, GIT_ATTRIBUTES, BadNameError, ConflictError, Repository, RepositoryNotFoundError

_NAME = re.compile(r"(?!.*(?:--|\.\.))(?!.*\.(?:git|ipynb)$)[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")


class Repositories:
    """All repositories below a root."""

    def __init__(self, root: Path) -> None:
        self._root, self._temporary = root, root / "incoming"
        shutil.rmtree(self._temporary, ignore_errors=True)  # what a process that was killed left half-made
        self._temporary.mkdir(parents=True)
        for lock in root.glob("*s/*/*/git/**/*.lock"):
            lock.unlink()
        self._open: dict[tuple[str, str], Repository] = {}
        self._lock = threading.RLock()

    def open(self, repo_type: str, name: str) -> Repository:
        """The repository `OWNER/NAME`, under its old name too where it was renamed. Raises `RepositoryNotFoundError`."""
        with self._lock:
            folder = self._folder(repo_type, name)
            if folder is not None and (moved := self._moved(folder)):
                name, folder = moved, self._folder(repo_type, moved)
            if folder is None or not folder.is_dir():
                raise RepositoryNotFoundError(f"There is no {repo_type} {name!r}.")
            key = (repo_type, name)
            if key not in self._open:
                self._open[key] = Repository(folder, repo_type, name, self._temporary)
            return self._open[key]

    def create(self, repo_type: str, name: str, *, private: bool, author: str) -> Repository:
        """A new repository with one commit, which says which files are large.

        Raises:
            BadNameError: the name is not OWNER/NAME of letters, digits, `-`, `_` and `.`.
            ConflictError: the repository exists.
        """
        check_repo_name(name)
        with self._lock:
            folder = self._path(repo_type, name)
            if folder.exists():
                raise ConflictError(f"You already created this {repo_type} repo: {name}")
            building = self._temporary / secrets.token_hex(8)
            (building / "git").mkdir(parents=True)
            Repo.init_bare(str(building / "git"), default_branch=DEFAULT_BRANCH.encode())
            settings = {
                "id": secrets.token_hex(12),
                "private": private,
                "gated": False,
                "author": author,
                "created_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            }
            (building / "settings.json").write_text(json.dumps(settings, indent=1), "utf-8")
            repository = Repository(building, repo_type, name, self._temporary)
            tree = edit_tree(repository.git.object_store, None, {".gitattributes": Blob.from_string(GIT_ATTRIBUTES)})
            oid = repository.add_commit(tree, [], "initial commit", author)
            repository.git.refs.add_if_new(Ref(f"refs/heads/{DEFAULT_BRANCH}".encode()), oid)
            repository.git.close()
            self._moved_file(folder).unlink(missing_ok=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            building.rename(folder)
            return self.open(repo_type, name)

    def delete(self, repo_type: str, name: str) -> None:
        """Remove a repository for good; blobs that others share stay. Raises `RepositoryNotFoundError`."""
        with self._lock:
            repository = self.open(repo_type, name)
            with repository.lock:
                doomed = self._temporary / secrets.token_hex(8)
                repository.folder.rename(doomed)
                self._open.pop((repo_type, repository.name), None)
                repository.git.close()
        shutil.rmtree(doomed)

    def move(self, repo_type: str, old: str, new: str) -> None:
        """Rename a repository; its old name leads to it from now on. Raises `RepositoryNotFoundError`, `BadNameError` and `ConflictError`."""
        check_repo_name(new)
        with self._lock:
            repository, target = self.open(repo_type, old), self._path(repo_type, new)
            if target.exists():
                raise ConflictError(f"There is a {repo_type} {new!r} already.")
            with repository.lock:
                target.parent.mkdir(parents=True, exist_ok=True)
                repository.folder.rename(target)
                self._open.pop((repo_type, repository.name), None)
                repository.git.close()
                self._moved_file(target).unlink(missing_ok=True)
                write_file(self._moved_file(repository.folder), new.encode(), self._temporary / secrets.token_hex(8))

    def all(self, repo_type: str) -> Iterator[Repository]:
        """Every repository of a type, by name."""
        for folder in sorted((self._root / f"{repo_type}s").glob("*/*/")):
            yield self.open(repo_type, f"{folder.parent.name}/{folder.name}")

    def _path(self, repo_type: str, name: str) -> Path:
        owner, repo = name.split("/")
        return self._root / f"{repo_type}s" / owner / repo

    def _folder(self, repo_type: str, name: str) -> Path | None:
        """Where it would be; None for a name that no repository can have, so that no request reaches another folder."""
        try:
            check_repo_name(name)
        except BadNameError:
            return None
        return self._path(repo_type, name)

    def _moved_file(self, folder: Path) -> Path:
        return self._root / "moved" / folder.relative_to(self._root)

    def _moved(self, folder: Path) -> str | None:
        """The present name of a repository that once was at `folder`."""
        name = None
        while not folder.is_dir() and (file := self._moved_file(folder)).is_file():
            name = file.read_text("utf-8")
            folder = self._path(folder.parent.parent.name.removesuffix("s"), name)
        return name


def check_repo_name(name: str) -> None:
    """Raise `BadNameError` unless `name` is OWNER/NAME as huggingface.co allows it."""
    parts = name.split("/")
    if len(parts) != 2 or not all(_NAME.fullmatch(part) for part in parts):
        raise BadNameError(
            f"{name!r} is no name of a repository; give OWNER/NAME, each of at most 96 letters, digits, '-', '_' and '.', without '--' and '..', "
            "not beginning or ending with '-' or '.'."
        )
