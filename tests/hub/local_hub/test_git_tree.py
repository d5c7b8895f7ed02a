"""Trees: edits and what they leave, paths that cannot be, pointers; and that git itself reads what was written."""

import subprocess

import pytest
from dulwich.objects import Blob
from dulwich.repo import Repo

from hflab.hub.local.git_tree import BadPathError, Lfs, check_path, edit_tree, find, list_tree, pointer_blob, read_pointer

SHA256 = "ab" * 32


def blob(text):
    return Blob.from_string(text.encode())


@pytest.fixture
def store(tmp_path):
    return Repo.init_bare(str(tmp_path)).object_store


def names(store, tree):
    return [entry.path for entry in list_tree(store, tree, recursive=True)]


def test_files_are_set_replaced_and_removed(store):
    first = edit_tree(store, None, {"a/b/c": blob("1"), "a/d": blob("2"), "e": blob("3")})
    assert names(store, first) == ["a", "a/b", "a/b/c", "a/d", "e"]
    second = edit_tree(store, first, {"a/b/c": None, "e": blob("4"), "f/g": blob("5")})
    assert names(store, second) == ["a", "a/d", "e", "f", "f/g"]
    assert store[find(store, second, "e").oid.encode()].data == b"4"
    assert names(store, first) == ["a", "a/b", "a/b/c", "a/d", "e"]


def test_a_tree_without_files_is_empty(store):
    tree = edit_tree(store, None, {"a/b": blob("1")})
    assert names(store, edit_tree(store, tree, {"a/b": None})) == []


def test_what_is_not_there_can_be_removed(store):
    tree = edit_tree(store, None, {"a": blob("1")})
    assert edit_tree(store, tree, {"x": None, "y/z": None, "a/b": None}) == tree


def test_the_same_content_is_the_same_tree(store):
    assert edit_tree(store, None, {"a": blob("1"), "b/c": blob("2")}) == edit_tree(
        store, edit_tree(store, None, {"b/c": blob("2")}), {"a": blob("1")}
    )


@pytest.mark.parametrize(
    "path",
    ["", "/a", "a/", "a//b", ".", "a/../b", "..", ".git/config", "a/.GIT/x", "a\\b", "a\nb", "a\0b", "x" * 256, "a/" * 600 + "b", "\udcff"],
)
def test_paths_that_leave_or_cannot_be_are_refused(store, path):
    with pytest.raises(BadPathError):
        check_path(path)
    with pytest.raises(BadPathError):
        edit_tree(store, None, {path: blob("1")})


@pytest.mark.parametrize("path", ["a b.txt", "模型/权重.json", ".gitattributes", "a.b/.c", "x" * 255])
def test_other_paths_are_kept(store, path):
    assert names(store, edit_tree(store, None, {path: blob("1")}))[-1] == path


def test_no_file_is_put_where_a_folder_is_nor_below_a_file(store):
    tree = edit_tree(store, None, {"a/b": blob("1"), "c": blob("2")})
    for changes in ({"a": blob("3")}, {"c/d": blob("3")}, {"x": blob("1"), "x/y": blob("2")}, {"x/y": blob("2"), "x": blob("1")}):
        with pytest.raises(BadPathError):
            edit_tree(store, tree, changes)


def test_a_pointer_says_what_it_stands_for_and_nothing_else_is_one(store):
    pointer = pointer_blob(SHA256, 12)
    assert read_pointer(pointer) == Lfs(SHA256, 12, len(pointer.data))
    tree = edit_tree(store, None, {"weights": pointer, "text": blob("12")})
    assert find(store, tree, "weights").size == 12
    assert find(store, tree, "text").lfs is None
    for text in (
        "",
        pointer.data.decode() + "x",
        pointer.data.decode().replace("sha256", "md5"),
        pointer.data.decode().replace("size 12", "size -1"),
    ):
        assert read_pointer(blob(text)) is None


def test_find_sees_files_folders_and_nothing_below_a_file(store):
    tree = edit_tree(store, None, {"a/b": blob("1")})
    assert find(store, tree, "").is_folder
    assert find(store, tree, "a").is_folder
    assert find(store, tree, "a/b").size == 1
    assert find(store, tree, "a/b/c") is None
    assert find(store, tree, "x") is None


def test_git_finds_no_fault_with_it(store, tmp_path):
    edit_tree(store, None, {"a/b": blob("1"), "a.c": blob("2"), "a0": blob("3")})  # git sorts folders as if their names ended in a slash
    checked = subprocess.run(["git", "--git-dir", str(tmp_path), "fsck", "--strict"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
