"""The local Hub's parts in one place, and the questions that every request asks of them: who is calling, and whether they may."""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from starlette.requests import Request

from .access import Signatures, Tokens, User
from .blobs import BlobStore
from .discussions import Discussions
from .git_tree import Entry
from .http import RefusalError
from .repositories import Repositories
from .repository import Repository, RepositoryNotFoundError
from .xet_store import XetStore

TYPES = {"models": "model", "datasets": "dataset"}
SESSION_COOKIE = "hub_session"


class Hub:
    """What a running server has. One process at a time may own `root`."""

    def __init__(self, root: Path, tokens: Tokens) -> None:
        self.repositories = Repositories(root / "repositories")
        self.blobs = BlobStore(root / "blobs")
        self.xet = XetStore(root / "xet", self.blobs)
        self.discussions = Discussions()
        self.tokens = tokens
        self.signatures = Signatures()

    def user(self, request: Request) -> User | None:
        """Who is calling. Raises `RefusalError` 401 for a token that is not known."""
        authorization = request.headers.get("authorization")
        if authorization is None:
            return self._session_user(request)
        user = self.tokens.user(authorization)
        if user is None:
            raise RefusalError(401, "Invalid username or password.")
        return user

    def new_session(self, user: User, seconds: int) -> str:
        """What a browser shows instead of a token, for a while, and to read alone."""
        return self.signatures.sign("SESSION", user.name, seconds)

    def _session_user(self, request: Request) -> User | None:
        name, _, query = unquote(request.cookies.get(SESSION_COOKIE, "")).partition("?")
        fields = parse_qs(query)
        expires, signature = fields.get("expires", [""])[0], fields.get("signature", [""])[0]
        return User(name, may_write=False) if name and self.signatures.is_valid("SESSION", name, expires, signature) else None

    def writer(self, request: Request) -> User:
        """Who is calling, if they may write. Raises `RefusalError` 401 without a token, 403 with one that only reads."""
        user = self.user(request)
        if user is None:
            raise RefusalError(401, "This needs a token with the role write; set HF_TOKEN.")
        if not user.may_write:
            raise RefusalError(403, f"The token of {user.name} has the role read; this needs one with the role write.")
        return user

    def readable(self, request: Request, repo_type: str, name: str) -> Repository:
        """A repository, if the caller may see it; a private one does not exist for callers without a token. Raises `RepositoryNotFoundError`."""
        user = self.user(request)
        repository = self.repositories.open(repo_type, name)
        if repository.settings()["private"] and user is None:
            raise RepositoryNotFoundError(f"There is no {repo_type} {name!r}, or it is private and needs a token.")
        return repository

    def writable(self, request: Request, repo_type: str, name: str) -> tuple[Repository, User]:
        """A repository and the caller, if they may write to it. Raises `RefusalError` and `RepositoryNotFoundError`."""
        repository = self.readable(request, repo_type, name)
        user = self.writer(request)
        return repository, user

    def entry_facts(self, entry: Entry) -> dict[str, Any]:
        """A file or folder as the API tells it."""
        facts: dict[str, Any] = {"type": "directory" if entry.is_folder else "file", "oid": entry.oid, "size": entry.size, "path": entry.path}
        if entry.lfs:
            facts["lfs"] = {"oid": entry.lfs.sha256, "size": entry.lfs.size, "pointerSize": entry.lfs.pointer_size}
        return facts
