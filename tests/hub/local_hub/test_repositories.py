"""Repositories: commits and who wins, names, branches, tags, pull requests, renaming, and what a kill leaves."""

import subprocess
import threading

import pytest

from hflab.hub.local.repositories import Repositories
from hflab.hub.local.repository import BadNameError, ConflictError, LargeFile, RepositoryNotFoundError, RevisionNotFoundError, StaleParentError

SHA256 = "cd" * 32


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture
def repositories(root):
    return Repositories(root)


@pytest.fixture
def repository(repositories):
    return repositories.create("model", "ada/lstm", private=False, author="ada")


def commit(repository, branch="main", **files):
    return repository.commit(branch, {name: text.encode() for name, text in files.items()}, summary="A commit", author="ada")


def content(repository, revision="main"):
    entries = repository.list_folder(repository.resolve(revision), recursive=True)
    return {entry.path: repository.read(entry).decode() for entry in entries if not entry.is_folder and entry.path != ".gitattributes"}


def git(repository, *arguments):
    command = ["git", "--git-dir", str(repository.folder / "git"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_commit_is_what_git_says_it_is(repository):
    oid = repository.commit("main", {"a": b"1", "w.safetensors": LargeFile(SHA256, 9)}, summary="First", description="More.", author="ada")
    assert git(repository, "rev-parse", "main").strip() == oid
    assert git(repository, "log", "-1", "--format=%an%n%s%n%b", "main").strip().splitlines() == ["ada", "First", "More."]
    assert git(repository, "show", "main:a") == "1"
    assert git(repository, "fsck", "--strict") == ""
    newest = next(repository.history(repository.resolve("main")))
    assert (newest.oid, newest.title, newest.message, newest.author) == (oid, "First", "More.", "ada")


def test_a_commit_that_changes_nothing_is_none(repository):
    oid = commit(repository, a="1")
    assert commit(repository, a="1") == oid
    assert len(list(repository.history(repository.resolve("main")))) == 2


def test_a_commit_on_an_old_parent_is_refused_and_nothing_changes(repository):
    first = commit(repository, a="1")
    second = commit(repository, a="2")
    with pytest.raises(StaleParentError, match=second):
        repository.commit("main", {"a": b"3"}, summary="s", author="ada", expected_parent=first)
    assert content(repository) == {"a": "2"}
    repository.commit("main", {"a": b"3"}, summary="s", author="ada", expected_parent=second)
    assert content(repository) == {"a": "3"}


def test_of_many_commits_on_one_parent_one_wins(repository):
    parent = commit(repository, a="0")
    outcomes = []

    def attempt(number):
        try:
            outcomes.append(repository.commit("main", {"a": str(number).encode()}, summary="s", author="ada", expected_parent=parent))
        except StaleParentError:
            outcomes.append(None)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 8
    assert sum(outcome is not None for outcome in outcomes) == 1
    assert git(repository, "fsck", "--strict") == ""


def test_commits_from_many_threads_all_arrive(repository):
    threads = [threading.Thread(target=commit, args=(repository,), kwargs={f"f{number}": "x"}) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(content(repository)) == sorted(f"f{number}" for number in range(16))


def test_folders_are_removed_before_changes(repository):
    repository.commit("main", {"old/a": b"1", "old/b": b"2", "keep": b"3"}, summary="s", author="ada")
    repository.commit("main", {"old/c": b"4"}, summary="s", author="ada", removed_folders=("old/",))
    assert content(repository) == {"keep": "3", "old/c": "4"}


def test_revisions_are_branches_tags_and_commits(repository):
    first = commit(repository, a="1")
    repository.create_tag("v1", repository.resolve("main"), "", "ada")
    repository.create_tag("v1-with-words", repository.resolve("main"), "Words", "ada")
    repository.create_branch("feature/x", repository.resolve("main"))
    commit(repository, a="2")
    for revision in ("v1", "v1-with-words", "feature/x", first, first[:7], "refs/heads/feature/x"):
        assert repository.resolve(revision).decode() == first
    for revision in ("", "v2", "0" * 40, first[:6], "main~1", "refs/../main", "../main", "HEAD^", "-h"):
        with pytest.raises(RevisionNotFoundError):
            repository.resolve(revision)
    assert list(repository.branches()) == ["feature/x", "main"]
    assert repository.tags() == {"v1": first, "v1-with-words": first}


def test_branches_and_tags_are_made_once_and_removed(repository):
    start = repository.resolve("main")
    repository.create_branch("dev", start)
    repository.create_tag("v1", start, "", "ada")
    with pytest.raises(ConflictError, match="dev"):
        repository.create_branch("dev", start)
    with pytest.raises(ConflictError, match="v1"):
        repository.create_tag("v1", start, "", "ada")
    repository.delete_branch("dev")
    repository.delete_tag("v1")
    for delete in (repository.delete_branch, repository.delete_tag):
        with pytest.raises(RevisionNotFoundError):
            delete("dev")
    with pytest.raises(ConflictError, match="default"):
        repository.delete_branch("main")


@pytest.mark.parametrize("name", ["", "-x", "a..b", "a//b", "a.lock", "a b", "a~b", "x/", ".x", "a@{b", "a\nb", "x" * 300])
def test_names_that_git_cannot_keep_are_refused(repository, name):
    with pytest.raises(BadNameError):
        repository.create_branch(name, repository.resolve("main"))


def test_a_squashed_branch_keeps_its_content(repository):
    commit(repository, a="1")
    commit(repository, b="2")
    repository.squash("main", "All", "ada")
    assert content(repository) == {"a": "1", "b": "2"}
    assert [entry.title for entry in repository.history(repository.resolve("main"))] == ["All"]


def test_a_pull_request_is_merged_with_what_main_did_meanwhile(repository):
    commit(repository, a="1", b="1", c="1")
    repository.open_pull_request(1, repository.resolve("main"))
    repository.commit("refs/pr/1", {"a": b"2", "b": None, "new": b"n"}, summary="s", author="bob")
    commit(repository, c="2", a="1")
    assert repository.conflicts(1) == []
    assert "+2" in repository.pull_request_diff(1)
    merged = repository.merge(1, "Merge", "ada")
    assert content(repository) == {"a": "2", "c": "2", "new": "n"}
    assert len(git(repository, "rev-list", "--parents", "-1", merged).split()) == 3


def test_a_pull_request_that_clashes_is_not_merged(repository):
    commit(repository, a="1", b="1")
    repository.open_pull_request(1, repository.resolve("main"))
    repository.commit("refs/pr/1", {"a": b"2", "b": b"3"}, summary="s", author="bob")
    commit(repository, a="4", b="3")
    assert repository.conflicts(1) == ["a"]
    with pytest.raises(ConflictError, match="a changed"):
        repository.merge(1, "Merge", "ada")
    assert content(repository) == {"a": "4", "b": "3"}


def test_old_names_lead_to_the_new_one(repositories, repository):
    repositories.move("model", "ada/lstm", "bob/gru")
    repositories.move("model", "bob/gru", "bob/rnn")
    assert repositories.open("model", "ada/lstm").name == "bob/rnn"
    assert repositories.open("model", "bob/gru").name == "bob/rnn"
    assert [found.name for found in repositories.all("model")] == ["bob/rnn"]
    fresh = repositories.create("model", "ada/lstm", private=True, author="ada")
    assert repositories.open("model", "ada/lstm") is fresh


def test_moving_onto_another_repository_is_refused(repositories, repository):
    repositories.create("model", "ada/gru", private=False, author="ada")
    with pytest.raises(ConflictError, match="ada/gru"):
        repositories.move("model", "ada/lstm", "ada/gru")


def test_a_deleted_repository_is_gone_and_can_be_made_again(repositories, repository):
    commit(repository, a="1")
    repositories.delete("model", "ada/lstm")
    with pytest.raises(RepositoryNotFoundError):
        repositories.open("model", "ada/lstm")
    assert content(repositories.create("model", "ada/lstm", private=False, author="ada")) == {}


def test_models_and_datasets_have_their_own_names(repositories, repository):
    with pytest.raises(RepositoryNotFoundError):
        repositories.open("dataset", "ada/lstm")
    with pytest.raises(ConflictError, match="already"):
        repositories.create("model", "ada/lstm", private=False, author="ada")
    repositories.create("dataset", "ada/lstm", private=False, author="ada")


@pytest.mark.parametrize(
    "name", ["", "lstm", "a/b/c", "../x", "a/..", "a/.", "-a/b", "a/b-", "a/b.git", "a/b--c", "a/" + "b" * 97, "a/b c", "a/\0", "é/b"]
)
def test_names_that_are_none_are_refused_and_found_nowhere(repositories, name):
    with pytest.raises(BadNameError):
        repositories.create("model", name, private=False, author="ada")
    with pytest.raises(RepositoryNotFoundError):
        repositories.open("model", name)


def test_everything_is_there_after_a_new_start(root, repositories, repository):
    oid = commit(repository, a="1")
    repository.change_settings(private=True)
    again = Repositories(root).open("model", "ada/lstm")
    assert again.resolve("main").decode() == oid
    assert again.settings()["private"] is True


def test_what_a_killed_process_left_is_removed_at_the_start(root, repositories, repository):
    commit(repository, a="1")
    lock = repository.folder / "git" / "refs" / "heads" / "main.lock"
    lock.write_text("")
    (root / "incoming" / "half").mkdir()
    again = Repositories(root).open("model", "ada/lstm")
    assert commit(again, a="2") == again.resolve("main").decode()
    assert not list((root / "incoming").iterdir())
