"""Publishing: one commit to a Hub, and then everything downloaded again and held against what was meant to go.

    published = publish(Path("runs/NAME/model"), "ada/lstm", PublishOptions(tag="v1"), say=print)

Works with huggingface.co and any server that `HF_ENDPOINT` names. What goes is decided first, file by file with its hash; then one commit is made
that stands on the commit that was looked at, so that nobody's work in between is lost; then the commit is downloaded into a fresh cache, by its hash,
and compared. Loading and measuring what was downloaded is for the caller, who has a model to measure: see `hflab.api.publish`. A token is read from
where huggingface_hub keeps it and is never written anywhere.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._validators import validate_repo_id

from ..errors import UserError
from .preflight import KNOWN_FILES, files_of


@dataclass(frozen=True)
class PublishOptions:
    """How to publish.

    Attributes:
        repo_type: "model" or "dataset".
        private: whether a repository that is made now is private; one that exists stays as it is.
        revision: branch to commit to; made from the default branch if it does not exist.
        create_pr: propose the commit as a pull request instead.
        tag: name for the commit.
        message: first line of the commit's message.
    """

    repo_type: str = "model"
    private: bool = False
    revision: str = "main"
    create_pr: bool = False
    tag: str | None = None
    message: str | None = None


@dataclass(frozen=True)
class Published:
    """What was published, and is there: every hash was compared."""

    address: str
    repo_id: str
    commit: str
    files: dict[str, str]
    """SHA-256 by path."""
    changed: bool
    """False where the repository had all of it already."""
    pull_request: str | None = None


def local_files(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file that would go, by its path in the repository."""
    return {name: sha256_of(path) for name, path in files_of(folder)}


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Plan(NamedTuple):
    """What a commit would change."""

    parent: str | None
    """The commit that it follows; None where the repository or the branch has yet to be made."""
    new: list[str]
    changed: list[str]
    unchanged: list[str]
    removed: list[str]
    num_bytes: int
    """Of the files that are new or changed."""

    def __str__(self) -> str:
        counts = {"new": self.new, "changed": self.changed, "unchanged": self.unchanged, "removed": self.removed}
        return ", ".join(f"{len(files)} {word}" for word, files in counts.items() if files) + f"; {self.num_bytes:,} bytes to send"


def make_plan(folder: Path, files: dict[str, str], repo_id: str, options: PublishOptions) -> Plan:
    """Hold `files` of `folder`, SHA-256 by path, against what the repository has, file by file.

    Files of a model that are no longer in `folder` are removed, others stay; of a data set all stay.

    Raises:
        UserError: the Hub cannot be reached or refuses, or the tag that was asked for names another commit.
    """
    api = HfApi()
    with _told_plainly(api, repo_id):
        found = _present(api, repo_id, options)
        parent, present = (None, {}) if found is None else found
        same = [path for path in files if path in present and _is_same(folder / path, files[path], present[path])]
        gone = present.keys() - files.keys() - {".gitattributes"} if options.repo_type == "model" else set()
        removed = sorted(filter(_belongs_to_models, gone))
        changed = [path for path in files if path in present and path not in same]
        new = [path for path in files if path not in present]
        plan = Plan(parent, new, changed, same, removed, sum((folder / path).stat().st_size for path in [*new, *changed]))
        if options.tag is not None and parent is not None:
            _check_tag(api, repo_id, options, plan)
    return plan


def _present(api: HfApi, repo_id: str, options: PublishOptions) -> tuple[str, dict[str, RepoFile]] | None:
    """The commit of the branch and its files, or None."""
    try:
        commit = api.repo_info(repo_id, repo_type=options.repo_type, revision=options.revision).sha
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return None
    entries = api.list_repo_tree(repo_id, repo_type=options.repo_type, revision=commit, recursive=True)
    return str(commit), {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _is_same(path: Path, sha256: str, entry: RepoFile) -> bool:
    if entry.size != path.stat().st_size:
        return False
    if entry.lfs is not None:
        return entry.lfs.sha256 == sha256
    content = path.read_bytes()
    return entry.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _check_tag(api: HfApi, repo_id: str, options: PublishOptions, plan: Plan) -> None:
    targets = {tag.name: tag.target_commit for tag in api.list_repo_refs(repo_id, repo_type=options.repo_type).tags}
    at = targets.get(str(options.tag))
    if at is not None and (at != plan.parent or plan.new or plan.changed or plan.removed):
        raise UserError(f"{repo_id} has a tag {options.tag!r} already, on another commit ({at}); choose another --tag.")


def publish(folder: Path, repo_id: str, options: PublishOptions, *, say: Callable[[str], None]) -> Published:
    """Commit the files of `folder` to the repository `repo_id`, in one commit; `downloaded` then says whether they arrived.

    Safe to repeat, also after a broken connection: what had arrived is not sent again, and where nothing changed there is no commit.

    Raises:
        UserError: what cannot go; says what to do.
    """
    check_repo_id(repo_id)
    files, api = local_files(folder), HfApi()
    with _told_plainly(api, repo_id):
        api.whoami()  # a token that is missing or wrong is told before anything else
    plan = make_plan(folder, files, repo_id, options)
    say(f"{api.endpoint}/{repo_id}: {plan}.")
    with _told_plainly(api, repo_id):
        parent = plan.parent or _make_branch(api, repo_id, options)
        commit, pull_request = parent, None
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path, folder / path) for path in [*plan.new, *plan.changed]
        ]
        operations += [CommitOperationDelete(path) for path in plan.removed]
        if operations:
            made = api.create_commit(
                repo_id,
                operations,
                repo_type=options.repo_type,
                commit_message=options.message or f"Publish {folder.parent.name if folder.name == 'model' else folder.name}",
                revision=options.revision,
                create_pr=options.create_pr,
                parent_commit=None if options.create_pr else parent,
            )
            commit, pull_request = made.oid, made.pr_url
        if options.tag is not None:
            api.create_tag(repo_id, tag=options.tag, revision=commit, repo_type=options.repo_type, exist_ok=True)
    prefix = "datasets/" if options.repo_type == "dataset" else ""
    return Published(f"{api.endpoint}/{prefix}{repo_id}", repo_id, commit, files, commit != parent, pull_request)


def check_repo_id(repo_id: str) -> None:
    """Raise `UserError` unless this is OWNER/NAME."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{repo_id!r} cannot name a repository: {error}") from None
    if "/" not in repo_id:
        raise UserError(f"{repo_id!r} does not say whose repository it is; give USER/{repo_id}.")


def _make_branch(api: HfApi, repo_id: str, options: PublishOptions) -> str:
    """Make the repository and the branch where they are not there; returns the branch's commit."""
    api.create_repo(repo_id, repo_type=options.repo_type, private=options.private, exist_ok=True)
    if options.revision != "main":
        api.create_branch(repo_id, branch=options.revision, repo_type=options.repo_type, exist_ok=True)
    return str(api.repo_info(repo_id, repo_type=options.repo_type, revision=options.revision).sha)


def _belongs_to_models(path: str) -> bool:
    return bool(KNOWN_FILES.fullmatch(path)) or ("/" not in path and path.endswith(".py"))


@contextmanager
def downloaded(published: Published, options: PublishOptions) -> Iterator[Path]:
    """The published commit in a fresh cache, every file compared; the folder is removed afterwards.

    Raises:
        UserError: a file is missing, is other than it was sent, or cannot be downloaded; names the files.
    """
    with tempfile.TemporaryDirectory(prefix="hflab-verify-") as cache:
        api = HfApi()
        with _told_plainly(api, published.repo_id):
            found = Path(
                api.snapshot_download(published.repo_id, repo_type=options.repo_type, revision=published.commit, cache_dir=cache, max_workers=2)
            )
        wrong = [path for path, sha256 in published.files.items() if not (found / path).is_file() or sha256_of(found / path) != sha256]
        if wrong:
            raise UserError(
                f"What was downloaded is not what was sent: {', '.join(wrong)} of commit {published.commit} differ. Do not use this commit; publish "
                "again, and if that does not help, ask whoever runs the Hub to check its disks."
            )
        yield found


@contextmanager
def _told_plainly(api: HfApi, repo_id: str) -> Iterator[None]:
    """Turn the client's errors into what a user can do about them."""
    try:
        yield
    except LocalTokenNotFoundError:
        raise UserError(f"There is no token for {api.endpoint}; sign in by `hf auth login`, or set HF_TOKEN.") from None
    except RepositoryNotFoundError:
        raise UserError(
            f"There is no repository {repo_id!r} on {api.endpoint}, or your token may not see it; look at its name and at HF_TOKEN."
        ) from None
    except HfHubHTTPError as error:
        raise UserError(_explain(error, api, repo_id)) from None
    except Exception as error:
        if not (isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith("httpx")):  # httpx or httpx2, by version
            raise
        raise UserError(
            f"{api.endpoint} did not answer as a Hub does: {error}; publish again later, and what has arrived is not sent again."
        ) from None


def _explain(error: HfHubHTTPError, api: HfApi, repo_id: str) -> str:
    status = error.response.status_code if error.response is not None else None
    if status == 401:
        return f"{api.endpoint} does not know the token; sign in by `hf auth login`, or set HF_TOKEN."
    if status == 403:
        return f"The token may not write to {repo_id}; use one with the role write, of a user who may."
    if status == 412:
        return f"{repo_id} got another commit meanwhile; look at it, and publish again."
    if status == 409:
        return f"{error.server_message or error}; choose another name."
    if status == 507:
        return f"The disk of {api.endpoint} is full; nothing was published."
    return f"{api.endpoint} answered {status}: {error.server_message or error}"
