"""Who may do what: users by their tokens, and addresses that are signed for a while.

A token file has a line `USER ROLE TOKEN` for each token, where ROLE is `read` or `write`; `#` begins a comment. Tokens are kept in memory as their
SHA-256 alone and compared by it. An address that was signed may be used without a token, with one method, until it expires: so large files
go up and down without the token being sent along. The key of the signatures lives as long as the process.
"""

import hashlib
import hmac
import secrets
import time
from pathlib import Path
from typing import NamedTuple

from ...errors import UserError

ROLES = ("read", "write")
SIGNED_SECONDS = 3600


class User(NamedTuple):
    """Whom a token stands for."""

    name: str
    may_write: bool


class Tokens:
    """Users by token."""

    def __init__(self, users: dict[str, User]) -> None:
        self._users = {_digest(token): user for token, user in users.items()}

    @classmethod
    def from_file(cls, path: Path) -> "Tokens":
        """Read a token file.

        Raises:
            UserError: it cannot be read, or a line is not `USER ROLE TOKEN`. The message does not repeat tokens.
        """
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"The token file {path} cannot be read: {error}.") from None
        users = {}
        for number, line in enumerate(lines, 1):
            words = line.split("#", 1)[0].split()
            if not words:
                continue
            if len(words) != 3 or words[1] not in ROLES:
                raise UserError(f"Line {number} of {path} is not `USER ROLE TOKEN` with the role read or write.")
            users[words[2]] = User(words[0], words[1] == "write")
        if not users:
            raise UserError(f"{path} has no token; write a line `USER ROLE TOKEN` with the role read or write.")
        return cls(users)

    def user(self, authorization: str | None) -> User | None:
        """The user of an `Authorization: Bearer …` header; None without one or with a token that is not known."""
        scheme, _, token = (authorization or "").partition(" ")
        return self._users.get(_digest(token.strip())) if scheme.lower() == "bearer" else None


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


class Signatures:
    """Signs addresses and checks them."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def sign(self, method: str, path: str, seconds: int = SIGNED_SECONDS) -> str:
        """`path` with an expiry and a signature as its query."""
        expires = int(time.time()) + seconds
        return f"{path}?expires={expires}&signature={self._signature(method, path, expires)}"

    def is_valid(self, method: str, path: str, expires: str, signature: str) -> bool:
        """Whether this was signed here for this method, and has not expired."""
        if not (expires.isascii() and expires.isdigit() and len(expires) < 16) or int(expires) < time.time():
            return False
        return hmac.compare_digest(self._signature(method, path, int(expires)).encode(), signature.encode())

    def _signature(self, method: str, path: str, expires: int) -> str:
        return hmac.new(self._key, f"{method}\n{path}\n{expires}".encode(), hashlib.sha256).hexdigest()
