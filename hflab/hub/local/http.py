"""HTTP as the Hub's clients expect it: routes on the undecoded path, and errors with the headers that they look at.

    routes = Routes()

    @routes.add("GET", "/api/models/{repo:repo}/tree/{revision}{path:rest}")
    def list_tree(call: Call) -> Response: ...

In a branch's name the client sends `/` as `%2F`, so that a path is taken apart before it is decoded. `{name}` is what is between two slashes,
`{name:repo}` OWNER/NAME, `{name:path}` the rest and `{name:rest}` the rest that is empty or begins with a slash. A handler is a plain function
that runs in a thread, or a coroutine if it reads a large body.
"""

import inspect
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

MAX_JSON_BYTES = 4 * 1024 * 1024
_PARAMETER = re.compile(r"\{(\w+)(?::(\w+))?\}")
_PATTERNS = {None: r"[^/]+", "repo": r"[^/]+/[^/]+", "rest": r"(?:/.*)?", "path": r".+"}


class RefusalError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, code: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.details = status, message, code, details

    def response(self) -> Response:
        """As the client understands it: `X-Error-Code` decides which exception it raises."""
        message = self.message.encode("ascii", "replace").decode().replace("\n", " ")[:500]
        headers = {"X-Error-Message": message} | ({"X-Error-Code": self.code} if self.code else {})
        return JSONResponse({"error": self.message, **self.details}, self.status, headers)


class Call(NamedTuple):
    """A request with the parts of its path, decoded."""

    request: Request
    parts: dict[str, str]


Handler = Callable[[Call], Response | Awaitable[Response]]


class Routes:
    """Handlers by method and path."""

    def __init__(self) -> None:
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = []

    def add(self, method: str, path: str) -> Callable[[Handler], Handler]:
        """Let the decorated function answer `method` at `path`."""
        pattern, end = "", 0
        for match in _PARAMETER.finditer(path):
            pattern += re.escape(path[end : match.start()]) + f"(?P<{match[1]}>{_PATTERNS[match[2]]})"
            end = match.end()
        compiled = re.compile(pattern + re.escape(path[end:]))

        def register(handler: Handler) -> Handler:
            self._routes.append((method, compiled, handler))
            return handler

        return register

    def include(self, other: "Routes") -> None:
        """Append the routes of `other`; the first that fits answers."""
        self._routes += other._routes

    def find(self, method: str, raw_path: str) -> tuple[Handler, dict[str, str]]:
        """The handler and the decoded parts of the path. Raises `RefusalError` with 400, 404 or 405."""
        other_method = False
        for allowed, pattern, handler in self._routes:
            match = pattern.fullmatch(raw_path)
            if match and (allowed == method or (allowed, method) == ("GET", "HEAD")):
                try:
                    return handler, {name: unquote(part, errors="strict") for name, part in match.groupdict().items()}
                except UnicodeDecodeError:
                    raise RefusalError(400, "The path is not valid UTF-8.") from None
            other_method |= bool(match)
        if other_method:
            raise RefusalError(405, f"{method} is not possible here.")
        raise RefusalError(404, "There is nothing at this address.", "EntryNotFound")


class Application:
    """An ASGI application of routes.

    Args:
        routes: the first that fits answers.
        translate: turns exceptions that handlers may raise into a `RefusalError`, or returns None for a bug.
        error_page: answers people with a page; None where it should be the answer to a program.
    """

    def __init__(
        self, routes: Routes, translate: Callable[[Exception], RefusalError | None], error_page: Callable[[Request, RefusalError], Response | None]
    ) -> None:
        self._routes, self._translate, self._error_page = routes, translate, error_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            raw_path = scope.get("raw_path", scope["path"].encode()).decode("ascii", "strict").split("?", 1)[0]
            handler, parts = self._routes.find(request.method, raw_path)
            call = Call(request, parts)
            if inspect.iscoroutinefunction(handler):
                response = await handler(call)
            else:
                response = await run_in_threadpool(handler, call)
        except Exception as error:
            refusal = error if isinstance(error, RefusalError) else self._translate(error)
            if refusal is None:
                raise
            response = self._error_page(request, refusal) or refusal.response()
        await response(scope, receive, send)


async def read_bytes(call: Call, max_bytes: int) -> bytes:
    """The body. Raises `RefusalError` 413 for more than `max_bytes`."""
    body = bytearray()
    async for piece in call.request.stream():
        body += piece
        if len(body) > max_bytes:
            raise RefusalError(
                413, f"The request is larger than the {max_bytes:,} bytes that are allowed; upload large files as such, and commit in several steps."
            )
    return bytes(body)


async def read_json(call: Call, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The body as a JSON object. Raises `RefusalError`."""
    try:
        body = json.loads(await read_bytes(call, max_bytes) or b"{}")
    except (ValueError, RecursionError) as error:
        raise RefusalError(400, f"The body is no JSON: {error}.") from None
    if not isinstance(body, dict):
        raise RefusalError(400, "The body is no JSON object.")
    return body


async def read_body(call: Call) -> dict[str, Any]:
    """The body, JSON or a form, whose fields are lists of strings. Raises `RefusalError`."""
    if not call.request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return await read_json(call)
    fields = parse_qs((await read_bytes(call, MAX_JSON_BYTES)).decode(errors="replace"))
    return {"paths": fields.get("paths", []), "expand": fields.get("expand", [""])[-1]}
