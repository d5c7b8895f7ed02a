"""The local Hub as a program: `hflab hub serve`.

For one machine, a class, or a lab without network: one process, one folder, and everybody with a token of the role write may write everywhere.
"""

import errno
import getpass
import os
import secrets
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import uvicorn
from filelock import FileLock, Timeout
from starlette.requests import Request
from starlette.responses import Response

from ...errors import UserError
from .access import Tokens
from .blobs import ContentMismatchError
from .discussion_api import discussion_routes
from .discussions import DiscussionNotFoundError
from .git_tree import BadPathError
from .http import Application, Call, RefusalError, Routes
from .hub import Hub
from .pages import Pages, page_routes
from .repository import BadNameError, ConflictError, RepositoryNotFoundError, RevisionNotFoundError, StaleParentError
from .repository_api import repository_routes
from .transfer_api import transfer_routes
from .xet_formats import MalformedUploadError

# what handlers raise, with the status and the `X-Error-Code` that clients know
ERRORS: dict[type[Exception], tuple[int, str | None]] = {
    RepositoryNotFoundError: (404, "RepoNotFound"),
    RevisionNotFoundError: (404, "RevisionNotFound"),
    DiscussionNotFoundError: (404, "EntryNotFound"),
    StaleParentError: (412, None),
    ConflictError: (409, None),
    BadNameError: (400, None),
    BadPathError: (400, None),
    ContentMismatchError: (400, None),
    MalformedUploadError: (400, None),
}


def build_application(root: Path, tokens: Tokens) -> Application:
    """The server's application on the folder `root`, which no other process may use meanwhile."""
    hub = Hub(root, tokens)
    routes = Routes()
    pages = Pages()
    for part in (repository_routes(hub), discussion_routes(hub), transfer_routes(hub), page_routes(hub, pages)):
        routes.include(part)

    def error_page(request: Request, refusal: RefusalError) -> Response | None:
        """A page for a browser, which asks for HTML."""
        if "text/html" not in request.headers.get("accept", "") or request.url.path.startswith("/api/"):
            return None
        return pages.render("error.html", Call(request, {}), None, refusal.status, heading=str(refusal.status), message=refusal.message)

    return Application(routes, as_refusal, error_page)


def as_refusal(error: Exception) -> RefusalError | None:
    """The answer to an error that a request may end in, or None for a bug."""
    for kind, (status, code) in ERRORS.items():
        if isinstance(error, kind):
            return RefusalError(status, str(error), code)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return RefusalError(507, "The disk of this server is full; nothing of the request was kept.")
    return None


LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_CONNECTIONS = 256


def serve(root: Path, *, say: Callable[[str], None], host: str = "127.0.0.1", port: int = 8080, token_file: Path | None = None) -> None:
    """Serve the Hub in the folder `root` until the process is asked to end (Ctrl-C, SIGTERM).

    Args:
        root: everything the Hub keeps; made if need be. One process at a time may use it.
        say: takes the lines that tell the address, once it can be used, and how to use it.
        host: address to listen on; any but the loopback is open to the network, without encryption.
        port: port to listen on; 0 for a free one.
        token_file: lines `USER ROLE TOKEN`; default: `root/tokens`, which is made with one token of the role write if it is not there.

    Raises:
        UserError: the folder is in use or cannot be written, the port is taken, or the token file is not as it must be.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {root} cannot be made: {error.strerror}; give another --root.") from None
    lock = FileLock(root / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"The folder {root} is in use by another Hub; end that one, or give another --root.") from None
    except OSError as error:
        raise UserError(f"The folder {root} cannot be written: {error.strerror}; give another --root.") from None
    with lock, _listen(host, port) as listener:
        fresh = _first_token(root / "tokens") if token_file is None else None
        application = build_application(root, Tokens.from_file(token_file or root / "tokens"))
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        say(_welcome(root, host, address, token_file or root / "tokens", fresh))
        # no access log: its lines would have the signatures of addresses in them
        config = uvicorn.Config(application, access_log=False, log_level="warning", server_header=False, limit_concurrency=MOST_CONNECTIONS)
        signal.signal(signal.SIGTERM, lambda *_: None)  # the server ends in good order, and then raises the signal once more
        with suppress(KeyboardInterrupt):  # which the server raises again, after it has ended what was under way
            uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{host}:{port} cannot be listened on: {reason}; give another --port, or 0 for a free one.") from None


def _first_token(file: Path) -> str | None:
    """A token for the user of this machine, kept in `file`; None where there is such a file already."""
    if file.exists():
        return None
    token = f"hf_{secrets.token_hex(17)}"
    descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
        opened.write(f"# USER ROLE TOKEN, a line for each; the role is read or write\n{_user_name()} write {token}\n")
    return token


def _user_name() -> str:
    """The name of this machine's user as far as it can own repositories."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = "user"
    return "".join(character for character in name if character.isascii() and character.isalnum()) or "user"


def _welcome(root: Path, host: str, address: str, token_file: Path, token: str | None) -> str:
    lines = [f"Local Hub on {address}, everything in {root}. Ctrl-C ends it.", "", f"  export HF_ENDPOINT={address}"]
    if token is not None:
        lines.append(f"  export HF_TOKEN={token}")
    lines += ["", f"Tokens are the lines of {token_file}. This is for one machine, a class or a lab without network; beyond that take huggingface.co"]
    lines += ["or a server that is made for many: Gitea or GitLab with Git-LFS, or Hugging Face's Enterprise Hub."]
    if host not in LOOPBACK:
        lines += ["", f"Warning: {host} is open to the network and without encryption; put it behind a proxy with TLS."]
    return "\n".join(lines)
