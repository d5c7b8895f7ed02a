"""Discussions and pull requests of a repository: one JSON file each, replaced in one step."""

import json
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from .repository import DEFAULT_BRANCH, ConflictError, Repository

STATUSES = ("open", "closed", "merged", "draft")


class DiscussionNotFoundError(Exception):
    """The repository has no discussion of this number."""


class Discussions:
    """Reads and writes the discussions of repositories, as the API tells them."""

    def create(self, repository: Repository, title: str, text: str, author: str, *, pull_request: bool) -> dict[str, Any]:
        """Begin a discussion or a pull request, which gets its branch `refs/pr/NUMBER`."""
        with repository.lock:
            number = 1 + max((int(file.stem) for file in self._folder(repository).glob("*.json")), default=0)
            facts = {
                "num": number,
                "title": title,
                "status": "draft" if pull_request else "open",
                "isPullRequest": pull_request,
                "createdAt": _now(),
                "author": {"name": author},
                "events": [self._event("comment", author, {"edited": False, "hidden": False, "latest": {"raw": text, "updatedAt": _now()}})],
            }
            if pull_request:
                repository.open_pull_request(number, repository.resolve(DEFAULT_BRANCH))
            self._save(repository, facts)
        return facts

    def read(self, repository: Repository, number: int) -> dict[str, Any]:
        """One discussion. Raises `DiscussionNotFoundError`."""
        try:
            return dict(json.loads((self._folder(repository) / f"{number}.json").read_text("utf-8")))
        except FileNotFoundError:
            raise DiscussionNotFoundError(f"{repository.name} has no discussion {number}.") from None

    def all(self, repository: Repository) -> Iterator[dict[str, Any]]:
        """Every discussion, the latest first."""
        for number in sorted((int(file.stem) for file in self._folder(repository).glob("*.json")), reverse=True):
            yield self.read(repository, number)

    def comment(self, repository: Repository, number: int, text: str, author: str) -> dict[str, Any]:
        """Add a comment, and return its event."""
        return self._add(
            repository, number, self._event("comment", author, {"edited": False, "hidden": False, "latest": {"raw": text, "updatedAt": _now()}})
        )

    def edit_comment(self, repository: Repository, number: int, event_id: str, text: str | None) -> dict[str, Any]:
        """Change the text of a comment, or hide it where `text` is None. Raises `DiscussionNotFoundError`."""
        with repository.lock:
            facts = self.read(repository, number)
            for event in facts["events"]:
                if event["id"] == event_id and event["type"] == "comment":
                    event["data"] |= {"hidden": True} if text is None else {"edited": True, "latest": {"raw": text, "updatedAt": _now()}}
                    self._save(repository, facts)
                    return dict(event)
        raise DiscussionNotFoundError(f"The discussion {number} of {repository.name} has no comment {event_id!r}.")

    def rename(self, repository: Repository, number: int, title: str, author: str) -> dict[str, Any]:
        """Give a discussion another title, and return the event."""
        old = self.read(repository, number)["title"]
        return self._add(repository, number, self._event("title-change", author, {"from": old, "to": title}), title=title)

    def set_status(self, repository: Repository, number: int, status: str, author: str, comment: str = "") -> dict[str, Any]:
        """Open, close or un-draft, and return the event. Raises `ConflictError` for what was merged."""
        with repository.lock:
            if self.read(repository, number)["status"] == "merged":
                raise ConflictError(f"The pull request {number} of {repository.name} is merged; its status is final.")
            if comment:
                self.comment(repository, number, comment, author)
            return self._add(repository, number, self._event("status-change", author, {"status": status}), status=status)

    def merge(self, repository: Repository, number: int, author: str, comment: str = "") -> str:
        """Merge a pull request into the default branch and return the commit. Raises `ConflictError` for what cannot be merged."""
        with repository.lock:
            facts = self.read(repository, number)
            if not facts["isPullRequest"] or facts["status"] in ("merged", "closed"):
                raise ConflictError(f"{number} of {repository.name} is {'no pull request' if not facts['isPullRequest'] else facts['status']}.")
            oid = repository.merge(number, f"{facts['title']} (#{number})", author)
            if comment:
                self.comment(repository, number, comment, author)
            self._add(repository, number, self._event("status-change", author, {"status": "merged"}), status="merged", mergeCommitId=oid)
        return oid

    def note_commit(self, repository: Repository, number: int, oid: str, summary: str, author: str) -> None:
        """Put a commit on the branch of a pull request into its history."""
        self._add(repository, number, self._event("commit", author, {"oid": oid, "subject": summary}))

    def _add(self, repository: Repository, number: int, event: dict[str, Any], **changes: Any) -> dict[str, Any]:
        with repository.lock:
            facts = self.read(repository, number)
            self._save(repository, facts | changes | {"events": [*facts["events"], event]})
        return event

    def _event(self, kind: str, author: str, data: dict[str, Any]) -> dict[str, Any]:
        return {"id": secrets.token_hex(12), "type": kind, "createdAt": _now(), "author": {"name": author}, "data": data}

    def _folder(self, repository: Repository) -> Any:
        return repository.folder / "discussions"

    def _save(self, repository: Repository, facts: dict[str, Any]) -> None:
        repository.write_json(self._folder(repository) / f"{facts['num']}.json", facts)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
