"""A repository's content as git objects: trees, files, commits, and the way from one commit to the next.

    tree = edit_tree(store, tree, {"model/config.json": blob})       # None deletes
    for entry in list_tree(store, tree, recursive=True): ...

Large files are in git as Git-LFS pointers, as on huggingface.co; `Entry.lfs` says of what. Knows nothing about branches, users and HTTP.
"""

import re
import stat
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from dulwich.object_store import BaseObjectStore
from dulwich.objects import Blob, ObjectID, Tree

FILE_MODE, FOLDER_MODE = 0o100644, stat.S_IFDIR
MAX_PATH_BYTES = 1024
_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d{1,18})\n")
_MAX_POINTER_BYTES = 256


class BadPathError(Exception):
    """A path that cannot be in a repository; says which and why."""


class Lfs(NamedTuple):
    """What a pointer stands for."""

    sha256: str
    size: int
    pointer_size: int


class Entry(NamedTuple):
    """A file or folder of a tree."""

    path: str
    is_folder: bool
    oid: str
    size: int
    lfs: Lfs | None


def check_path(path: str) -> str:
    """`path`, if a file of a repository can have it.

    Raises:
        BadPathError: it is absolute, leaves the repository, goes into `.git`, is too long, or has characters that no file system wants.
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise BadPathError(f"{path!r} is no path inside a repository; give names separated by single slashes, without '.' and '..'.")
    if any(part.casefold() == ".git" for part in parts):
        raise BadPathError(f"{path!r} lies in .git, which belongs to the server; choose another name.")
    if any(ord(character) < 32 or character in "\\\x7f" for character in path):
        raise BadPathError(f"{path!r} has a control character or a backslash; choose another name.")
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        raise BadPathError(f"{path!r} is no valid Unicode; choose another name.") from None
    if length > MAX_PATH_BYTES or any(len(part.encode()) > 255 for part in parts):
        raise BadPathError(f"A path of {length} bytes is too long; at most {MAX_PATH_BYTES} are allowed, and 255 between two slashes.")
    return path


def pointer_blob(sha256: str, size: int) -> Blob:
    """The Git-LFS pointer of a large file."""
    return Blob.from_string(f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode("ascii"))


def read_pointer(blob: Blob) -> Lfs | None:
    """What the pointer stands for, or None for a file that is none."""
    if blob.raw_length() > _MAX_POINTER_BYTES or not (match := _POINTER.fullmatch(blob.data)):
        return None
    return Lfs(match[1].decode("ascii"), int(match[2]), blob.raw_length())


def find(store: BaseObjectStore, tree: ObjectID, path: str) -> Entry | None:
    """The file or folder at `path`, or None; the empty path is the tree itself."""
    mode, oid = FOLDER_MODE, tree
    for part in path.split("/") if path else []:
        folder = store[oid]
        if not isinstance(folder, Tree) or part.encode() not in folder:
            return None
        mode, oid = folder[part.encode()]
    return _entry(store, path, mode, oid)


def list_tree(store: BaseObjectStore, tree: ObjectID, folder: str = "", *, recursive: bool = False) -> Iterator[Entry]:
    """What is in the folder with the tree `tree`, whose path is `folder`, in git's order; with all below if `recursive`."""
    content = store[tree]
    assert isinstance(content, Tree)
    for item in content.iteritems(name_order=True):
        path = f"{folder}/{item.path.decode()}" if folder else item.path.decode()
        entry = _entry(store, path, item.mode, item.sha)
        yield entry
        if recursive and entry.is_folder:
            yield from list_tree(store, item.sha, path, recursive=True)


def _entry(store: BaseObjectStore, path: str, mode: int, oid: ObjectID) -> Entry:
    if stat.S_ISDIR(mode):
        return Entry(path, True, oid.decode("ascii"), 0, None)
    blob = store[oid]
    assert isinstance(blob, Blob)
    lfs = read_pointer(blob)
    return Entry(path, False, oid.decode("ascii"), lfs.size if lfs else blob.raw_length(), lfs)


def edit_tree(store: BaseObjectStore, tree: ObjectID | None, changes: Mapping[str, Blob | None]) -> ObjectID:
    """The tree with some paths set to a file, or removed where None; folders that become empty go too. New objects are added to `store`.

    Raises:
        BadPathError: a path goes through a file, or would put a file where a folder is.
    """
    nested: dict[str, Any] = {}
    for path, blob in changes.items():
        *folders, name = check_path(path).split("/")
        level = nested
        for depth, folder in enumerate(folders, 1):
            level = level.setdefault(folder, {})
            if not isinstance(level, dict):
                raise BadPathError(f"{path!r} lies below {'/'.join(folders[:depth])!r}, which is a file in the same commit.")
        if isinstance(level.get(name), dict):
            raise BadPathError(f"{path!r} is a file and a folder in the same commit.")
        level[name] = blob
    return _edit(store, tree, nested, "") or _add(store, Tree())


def _edit(store: BaseObjectStore, tree: ObjectID | None, changes: Mapping[str, Any], folder: str) -> ObjectID | None:
    content = store[tree].copy() if tree is not None else Tree()
    assert isinstance(content, Tree)
    for name, change in changes.items():
        key, path = name.encode(), f"{folder}{name}"
        mode, oid = content[key] if key in content else (None, None)  # noqa: SIM401  a Tree has no get
        is_folder = mode is not None and stat.S_ISDIR(mode)
        if isinstance(change, dict):
            if mode is not None and not is_folder and any(_sets_a_file(below) for below in change.values()):
                raise BadPathError(f"{path!r} is a file, so that nothing can lie below it; delete it in an earlier commit.")
            child = _edit(store, oid if is_folder else None, change, f"{path}/") if mode is None or is_folder else None
            if child is not None:
                content[key] = (FOLDER_MODE, child)
            elif is_folder:
                del content[key]
        elif change is None:
            if mode is not None:
                del content[key]
        elif is_folder:
            raise BadPathError(f"{path!r} is a folder, so that no file can have its name; delete it in an earlier commit.")
        else:
            content[key] = (FILE_MODE, _add(store, change))
    return _add(store, content) if len(content) else None


def _sets_a_file(change: Any) -> bool:
    return any(map(_sets_a_file, change.values())) if isinstance(change, dict) else change is not None


def _add(store: BaseObjectStore, thing: Blob | Tree) -> ObjectID:
    if thing.id not in store:
        store.add_object(thing)
    return thing.id
