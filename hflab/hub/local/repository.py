"""One repository in a folder of its own: branches, tags, commits and settings.

    repository = Repositories(root).create("model", "ada/lstm", private=False, author="ada")
    commit = repository.commit("main", {"README.md": b"..."}, summary="First", author="ada", expected_parent=None)

A repository is `models/OWNER/NAME` (or `datasets/…`) with `git`, a bare git repository that git itself reads, `settings.json` and `discussions`. A
commit is its objects first, and then one atomic change of the branch, under the repository's lock and only if the branch is where it was: a
process that is killed leaves the branch before or after. One process at a time may own the root. Knows nothing about HTTP, tokens and blobs.
"""

import io
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from dulwich.errors import NotGitRepository
from dulwich.graph import find_merge_base
from dulwich.objects import Blob, Commit, ObjectID, Tag
from dulwich.patch import write_tree_diff
from dulwich.refs import Ref
from dulwich.repo import Repo

from .blobs import write_file
from .git_tree import Entry, edit_tree, find, list_tree, pointer_blob

REPO_TYPES = ("model", "dataset")
# endings of files that are always large files, whatever their size
# fmt: off
LARGE_ENDINGS = {
    "7z", "arrow", "avro", "bin", "bz2", "ckpt", "ftz", "gguf", "gz", "h5", "joblib", "lz4", "mlmodel", "model", "msgpack", "npy", "npz", "onnx",
    "ot", "parquet", "pb", "pickle", "pkl", "pt", "pth", "rar", "safetensors", "tar", "tflite", "tgz", "wasm", "xz", "zip", "zst", "pcm", "sam",
    "raw", "aac", "flac", "mp3", "ogg", "wav", "bmp", "gif", "png", "tiff", "jpg", "jpeg", "webp", "mp4", "webm",
}
# fmt: on
GIT_ATTRIBUTES = "".join(f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in sorted(LARGE_ENDINGS)).encode()
DEFAULT_BRANCH = "main"
_REF_NAME = re.compile(r"(?!.*(?:\.\.|//|@\{))(?!.*(?:\.|\.lock|/)$)[A-Za-z0-9_][A-Za-z0-9._/+-]{0,199}")


class RepositoryNotFoundError(Exception):
    """There is no such repository, or not for this reader."""


class RevisionNotFoundError(Exception):
    """The repository has no such branch, tag or commit."""


class ConflictError(Exception):
    """What was asked for clashes with what is there; says how."""


class StaleParentError(Exception):
    """The branch has moved on from the commit that this one was to follow."""


class BadNameError(Exception):
    """A name that repositories, branches or tags cannot have."""


class LargeFile(NamedTuple):
    """A file of a commit whose content is a blob."""

    sha256: str
    size: int


class CommitEntry(NamedTuple):
    """A commit of the history."""

    oid: str
    parents: list[str]
    title: str
    message: str
    author: str
    date: datetime


class Repository:
    """One repository. Made by `Repositories` of `repositories.py`."""

    def __init__(self, folder: Path, repo_type: str, name: str, temporary: Path) -> None:
        self.folder, self.repo_type, self.name = folder, repo_type, name
        self._temporary = temporary
        self.lock = threading.RLock()
        try:
            self.git = Repo(str(folder / "git"))
        except NotGitRepository:
            raise RepositoryNotFoundError(f"There is no {repo_type} {name!r}.") from None

    # Settings

    def settings(self) -> dict[str, Any]:
        """`private`, `gated`, `author`, `id` and `created_at` (ISO 8601, UTC)."""
        return dict(json.loads((self.folder / "settings.json").read_text("utf-8")))

    def change_settings(self, **changes: Any) -> None:
        """Set some of the settings."""
        with self.lock:
            self.write_json(self.folder / "settings.json", self.settings() | changes)

    # Reading

    def resolve(self, revision: str) -> ObjectID:
        """The commit of a branch, a tag, `refs/pr/N`, or a full or abbreviated commit hash. Raises `RevisionNotFoundError`."""
        refs = self.git.refs
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision if revision.startswith("refs/") else ""):
            if ref and (oid := refs.read_ref(Ref(ref.encode()))):
                return self._peel(ObjectID(oid))
        if re.fullmatch(r"[0-9a-f]{7,40}", revision):
            matches = [ObjectID(revision.encode())] if len(revision) == 40 else list(self.git.object_store.iter_prefix(revision.encode()))
            found = [oid for oid in matches if oid in self.git.object_store and isinstance(self.git[oid], Commit)]
            if len(found) == 1:
                return found[0]
        raise RevisionNotFoundError(f"{self.name} has no branch, tag or commit {revision!r}.")

    def _peel(self, oid: ObjectID) -> ObjectID:
        found = self.git[oid]
        return found.object[1] if isinstance(found, Tag) else oid

    def tree_of(self, commit: ObjectID) -> ObjectID:
        """The tree of a commit."""
        found = self.git[commit]
        assert isinstance(found, Commit)
        return found.tree

    def find(self, commit: ObjectID, path: str) -> Entry | None:
        """The file or folder of a commit at `path`, or None."""
        return find(self.git.object_store, self.tree_of(commit), path)

    def list_folder(self, commit: ObjectID, folder: str = "", *, recursive: bool = False) -> Iterator[Entry] | None:
        """What is in a folder of a commit, or None where there is no such folder."""
        entry = self.find(commit, folder)
        if entry is None or not entry.is_folder:
            return None
        return list_tree(self.git.object_store, ObjectID(entry.oid.encode()), folder, recursive=recursive)

    def read(self, entry: Entry) -> bytes:
        """The bytes of a file that is in git; of a large file its pointer."""
        blob = self.git[entry.oid.encode()]
        assert isinstance(blob, Blob)
        return blob.data

    def branches(self) -> dict[str, str]:
        """Commits by branch."""
        return {name.decode(): oid.decode() for name, oid in sorted(self.git.refs.as_dict(Ref(b"refs/heads")).items())}

    def tags(self) -> dict[str, str]:
        """Commits by tag."""
        return {name.decode(): self._peel(oid).decode() for name, oid in sorted(self.git.refs.as_dict(Ref(b"refs/tags")).items())}

    def pull_requests(self) -> dict[str, str]:
        """Commits by number of the pull request."""
        return {name.decode(): oid.decode() for name, oid in sorted(self.git.refs.as_dict(Ref(b"refs/pr")).items())}

    def history(self, commit: ObjectID, path: str | None = None) -> Iterator[CommitEntry]:
        """The commits from this one back, the latest first; of those that changed `path` alone if it is given."""
        paths = [path.encode()] if path else None
        for walked in self.git.get_walker(include=[commit], paths=paths):
            yield describe(walked.commit)

    # Writing

    def commit(
        self,
        branch: str,
        changes: Mapping[str, bytes | LargeFile | None],
        *,
        summary: str,
        description: str = "",
        author: str,
        expected_parent: str | None = None,
        removed_folders: tuple[str, ...] = (),
    ) -> str:
        """Put a commit on a branch (or `refs/pr/N`) and return its hash; without a change the branch stays, and its own commit is returned.

        Args:
            branch: its name.
            changes: content by path; None removes a file.
            summary: first line of the message.
            description: the rest of it.
            author: name of the user.
            expected_parent: refuse unless the branch is at this commit.
            removed_folders: folders to remove, before `changes`.

        Raises:
            RevisionNotFoundError: there is no such branch.
            StaleParentError: the branch is elsewhere.
            BadPathError: a path that cannot be.
        """
        ref = self._ref(branch)
        with self.lock:
            at = self.git.refs.read_ref(ref)
            if at is None:
                raise RevisionNotFoundError(f"{self.name} has no branch {branch!r}.")
            parent = ObjectID(at)
            if expected_parent is not None and not parent.decode().startswith(expected_parent):
                raise StaleParentError(
                    f"{branch} is at {parent.decode()}, and no longer at {expected_parent}; look at what was added, and commit again."
                )
            tree = self._changed_tree(self.tree_of(parent), changes, removed_folders)
            if tree == self.tree_of(parent):
                return parent.decode()
            oid = self.add_commit(tree, [parent], "\n\n".join(filter(None, [summary, description])), author)
            self._move(ref, parent, oid)
        return oid.decode()

    def create_branch(self, name: str, start: ObjectID) -> None:
        """Let a new branch begin at a commit. Raises `ConflictError` where it exists and `BadNameError`."""
        self._create_ref("heads", name, start, "branch")

    def create_tag(self, name: str, commit: ObjectID, message: str, author: str) -> None:
        """Tag a commit, with a message as an annotated tag. Raises `ConflictError` where the tag exists and `BadNameError`."""
        target = commit
        if message:
            tag = Tag()
            tag.object = (Commit, commit)
            tag.name, tag.tagger, tag.message = name.encode(), _identity(author), message.encode() + b"\n"
            tag.tag_time, tag.tag_timezone = int(time.time()), 0
            self.git.object_store.add_object(tag)
            target = tag.id
        self._create_ref("tags", name, target, "tag")

    def delete_branch(self, name: str) -> None:
        """Remove a branch. Raises `RevisionNotFoundError`, and `ConflictError` for the default branch."""
        if name == DEFAULT_BRANCH:
            raise ConflictError(f"{DEFAULT_BRANCH} is the default branch of {self.name} and cannot be deleted.")
        self._delete_ref("heads", name)

    def delete_tag(self, name: str) -> None:
        """Remove a tag. Raises `RevisionNotFoundError`."""
        self._delete_ref("tags", name)

    def squash(self, branch: str, message: str, author: str) -> str:
        """Replace the history of a branch by one commit with the content it has, and return that."""
        ref = self._ref(branch)
        with self.lock:
            parent = self.resolve(branch)
            oid = self.add_commit(self.tree_of(parent), [], message, author)
            self._move(ref, parent, oid)
        return oid.decode()

    def open_pull_request(self, number: int, start: ObjectID) -> None:
        """Let `refs/pr/NUMBER` begin at a commit."""
        with self.lock:
            self.git.refs.set_if_equals(Ref(f"refs/pr/{number}".encode()), None, start)

    def merge(self, number: int, message: str, author: str) -> str:
        """Merge a pull request into the default branch: by its own changes since the two parted. Returns the commit.

        Raises:
            ConflictError: a file was changed on both sides.
        """
        with self.lock:
            ours, theirs = self.resolve(DEFAULT_BRANCH), self.resolve(f"refs/pr/{number}")
            edits, clashes = self._edits(ours, theirs)
            if clashes:
                raise ConflictError(
                    f"{', '.join(clashes[:5])} changed in {DEFAULT_BRANCH} too since this pull request began; commit them here as they are to be."
                )
            tree = self._changed_tree(self.tree_of(ours), {}, (), {path: self._blob(oid) if oid else None for path, oid in edits.items()})
            oid = self.add_commit(tree, [ours, theirs], message, author)
            self._move(self._ref(DEFAULT_BRANCH), ours, oid)
        return oid.decode()

    def conflicts(self, number: int) -> list[str]:
        """The files that a pull request and the default branch both changed since the two parted."""
        return self._edits(self.resolve(DEFAULT_BRANCH), self.resolve(f"refs/pr/{number}"))[1]

    def pull_request_diff(self, number: int) -> str:
        """What a pull request changes, as git prints it; of large files their pointers."""
        ours, theirs = self.resolve(DEFAULT_BRANCH), self.resolve(f"refs/pr/{number}")
        bases = find_merge_base(self.git, [ours, theirs])
        return self.diff(bases[0] if bases else None, theirs)

    def diff(self, old: ObjectID | None, new: ObjectID) -> str:
        """The difference between two commits, as git prints it."""
        output = io.BytesIO()
        write_tree_diff(output, self.git.object_store, self.tree_of(old) if old else None, self.tree_of(new))
        return output.getvalue().decode(errors="replace")

    def _edits(self, ours: ObjectID, theirs: ObjectID) -> tuple[dict[str, str | None], list[str]]:
        """What `theirs` changed since the two parted, the blob by path, and which of it `ours` changed differently."""
        bases = find_merge_base(self.git, [ours, theirs])
        base = self._files(bases[0]) if bases else {}
        mine, changed = self._files(ours), self._files(theirs)
        edits = {path: changed.get(path) for path in base.keys() | changed.keys() if base.get(path) != changed.get(path)}
        return edits, sorted(path for path, oid in edits.items() if mine.get(path) not in (base.get(path), oid))

    def _files(self, commit: ObjectID) -> dict[str, str]:
        return {entry.path: entry.oid for entry in self.list_folder(commit, recursive=True) or () if not entry.is_folder}

    def _blob(self, oid: str) -> Blob:
        blob = self.git[oid.encode()]
        assert isinstance(blob, Blob)
        return blob

    def _changed_tree(
        self,
        tree: ObjectID,
        changes: Mapping[str, bytes | LargeFile | None],
        removed_folders: tuple[str, ...],
        blobs: Mapping[str, Blob | None] | None = None,
    ) -> ObjectID:
        edits: dict[str, Blob | None] = {}
        for folder in removed_folders:
            entry = find(self.git.object_store, tree, folder.strip("/"))
            if entry is not None and entry.is_folder:
                below = list_tree(self.git.object_store, ObjectID(entry.oid.encode()), folder.strip("/"), recursive=True)
                edits |= {found.path: None for found in below if not found.is_folder}
        for path, change in changes.items():
            edits[path] = pointer_blob(*change) if isinstance(change, LargeFile) else None if change is None else Blob.from_string(change)
        return edit_tree(self.git.object_store, tree, edits | dict(blobs or {}))

    def add_commit(self, tree: ObjectID, parents: list[ObjectID], message: str, author: str) -> ObjectID:
        """Write a commit of `tree`, on no branch yet."""
        commit = Commit()
        commit.tree, commit.parents = tree, parents
        commit.author = commit.committer = _identity(author)
        commit.author_time = commit.commit_time = int(time.time())
        commit.author_timezone = commit.commit_timezone = 0
        commit.encoding, commit.message = b"UTF-8", message.encode() + b"\n"
        self.git.object_store.add_object(commit)
        return commit.id

    def _ref(self, branch: str) -> Ref:
        return Ref((branch if branch.startswith("refs/pr/") else f"refs/heads/{branch}").encode())

    def _move(self, ref: Ref, old: ObjectID, new: ObjectID) -> None:
        if not self.git.refs.set_if_equals(ref, old, new):
            raise StaleParentError(f"{ref.decode()} of {self.name} has moved meanwhile; try again.")

    def _create_ref(self, kind: str, name: str, target: ObjectID, word: str) -> None:
        if not _REF_NAME.fullmatch(name):
            raise BadNameError(f"{name!r} cannot name a {word}; use letters, digits and -._/+, beginning with a letter, a digit or _.")
        with self.lock:
            if not self.git.refs.add_if_new(Ref(f"refs/{kind}/{name}".encode()), target):
                raise ConflictError(f"{self.name} has a {word} {name!r} already.")

    def _delete_ref(self, kind: str, name: str) -> None:
        ref = Ref(f"refs/{kind}/{name}".encode())
        with self.lock:
            if self.git.refs.read_ref(ref) is None:
                raise RevisionNotFoundError(f"{self.name} has no {'branch' if kind == 'heads' else 'tag'} {name!r}.")
            self.git.refs.remove_if_equals(ref, None)

    def write_json(self, path: Path, value: Any) -> None:
        """Replace a file of the repository by `value` as JSON, in one step."""
        write_file(path, json.dumps(value, ensure_ascii=False, indent=1).encode(), self._temporary / f"{threading.get_ident()}-{time.monotonic_ns()}")


def _identity(author: str) -> bytes:
    return f"{author} <{author}@localhost>".encode()


def describe(commit: Commit) -> CommitEntry:
    """A commit as the history shows it."""
    title, _, rest = commit.message.decode(errors="replace").partition("\n")
    author = commit.author.decode(errors="replace").rpartition(" <")[0]
    date = datetime.fromtimestamp(commit.commit_time, UTC)
    return CommitEntry(commit.id.decode(), [parent.decode() for parent in commit.parents], title, rest.strip(), author, date)
