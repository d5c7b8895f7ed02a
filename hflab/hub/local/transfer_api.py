"""Large files on their way up and down: Git-LFS in one piece or in parts, Xet, and `resolve`, which everything is downloaded by.

What comes up is written to the disk as it arrives and is checked against its hash before anything can refer to it; what goes down is read from the
disk in pieces, whole or by ranges. A process so needs the same memory for a file of any size.
"""

import mimetypes
import os
import re
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, JSONResponse, Response

from .blobs import ContentMismatchError, is_sha256
from .git_tree import Entry
from .http import Call, RefusalError, Routes, read_json
from .hub import TYPES, Hub
from .repository import Repository
from .xet_formats import MAX_SHARD_BYTES, MAX_XORB_BYTES, from_hex, read_shard

MAX_FILE_BYTES = 500 * 10**9
PART_BYTES = 64 * 1024 * 1024  # a larger file comes in parts of this size, each of which the client sends again if its connection breaks
TOKEN_SECONDS = 3600
PIECE_BYTES = 1024 * 1024  # read or written at a time: each goes to another thread and back, which takes longer than to copy a few kB
XET = "/xet"  # what the addresses of the Xet protocol begin with; the name of the store follows
# a file of a repository is never a page of this server: a browser shows it without scripts, and as what it is said to be
FILE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox",
    "X-Content-Type-Options": "nosniff",
}
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class LargeFileResponse(FileResponse):
    """A file in pieces larger than starlette's 64 kB."""

    chunk_size = PIECE_BYTES


def transfer_routes(hub: Hub) -> Routes:
    """The routes that bytes travel by."""
    routes = Routes()
    _add_lfs(routes, hub)
    _add_xet(routes, hub)
    for plural, repo_type in TYPES.items():
        prefix = "" if repo_type == "model" else f"/{plural}"
        _add_repository(routes, hub, prefix, plural, repo_type)
    return routes


def _add_repository(routes: Routes, hub: Hub, prefix: str, plural: str, repo_type: str) -> None:
    @routes.add("GET", f"{prefix}/{{repo:repo}}/resolve/{{revision}}{{path:rest}}")
    def resolve(call: Call) -> Response:
        repository = hub.readable(call.request, repo_type, call.parts["repo"])
        commit = repository.resolve(call.parts["revision"])
        entry = repository.find(commit, call.parts["path"].removeprefix("/"))
        headers = {"X-Repo-Commit": commit.decode(), "Accept-Ranges": "bytes"}
        if entry is None or entry.is_folder:
            refusal = RefusalError(404, f"{call.parts['path']!r} does not exist at {call.parts['revision']!r}.", "EntryNotFound").response()
            refusal.headers["X-Repo-Commit"] = commit.decode()
            return refusal
        return file_response(hub, call, repository, entry, headers)

    @routes.add("POST", f"{prefix}/{{repo:repo}}.git/info/lfs/objects/batch")
    async def batch(call: Call) -> Response:
        body = await read_json(call)
        if body.get("operation") != "upload":
            raise RefusalError(400, "Only uploads go this way; download by /resolve/.")
        hub.writable(call.request, repo_type, call.parts["repo"])
        in_parts = "multipart" in body.get("transfers", [])
        objects = [_upload(hub, call, item, in_parts=in_parts) for item in body.get("objects", [])]
        return JSONResponse({"transfer": "multipart" if in_parts else "basic", "objects": objects}, media_type="application/vnd.git-lfs+json")

    @routes.add("GET", f"/api/{plural}/{{repo:repo}}/xet-{{scope}}-token/{{revision}}")
    def xet_token(call: Call) -> Response:
        if call.parts["scope"] == "write":
            hub.writable(call.request, repo_type, call.parts["repo"])
        else:
            hub.readable(call.request, repo_type, call.parts["repo"])
        expires, url = int(time.time()) + TOKEN_SECONDS, str(call.request.base_url).rstrip("/") + f"{XET}/{hub.xet.name}"
        token = hub.signatures.sign("XET", call.parts["scope"], TOKEN_SECONDS)
        headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expires)}
        return JSONResponse({"casUrl": url, "accessToken": token, "exp": expires}, headers=headers)


def _upload(hub: Hub, call: Call, item: Any, *, in_parts: bool) -> dict[str, Any]:
    """Where the client is to send a file, or nothing where it is here already."""
    sha256, size = str(item.get("oid")), item.get("size")
    if not is_sha256(sha256) or not isinstance(size, int) or not 0 <= size <= MAX_FILE_BYTES:
        return {"oid": sha256[:64], "size": 0, "error": {"code": 422, "message": f"A SHA-256 and at most {MAX_FILE_BYTES:,} bytes are needed."}}
    facts: dict[str, Any] = {"oid": sha256, "size": size}
    if hub.blobs.size(sha256) == size:
        return facts
    base, path = str(call.request.base_url).rstrip("/"), f"/lfs/{sha256}/{size}"
    if not in_parts or size <= PART_BYTES:
        return facts | {"authenticated": True, "actions": {"upload": {"href": base + hub.signatures.sign("PUT", path)}}}
    path = f"{path}/{secrets.token_hex(16)}"
    num_parts = -(-size // PART_BYTES)
    header = {str(part): base + hub.signatures.sign("PUT", f"{path}/{part}") for part in range(1, num_parts + 1)}
    upload = {"href": base + hub.signatures.sign("POST", path), "header": header | {"chunk_size": str(PART_BYTES)}}
    return facts | {"authenticated": True, "actions": {"upload": upload}}


def _check_signature(hub: Hub, call: Call) -> None:
    query = call.request.query_params
    if not hub.signatures.is_valid(call.request.method, call.request.url.path, query.get("expires", ""), query.get("signature", "")):
        raise RefusalError(403, "This address was not signed here, or has expired; ask for a new one.")


def _add_lfs(routes: Routes, hub: Hub) -> None:
    @routes.add("PUT", "/lfs/{sha256}/{size}")
    async def put(call: Call) -> Response:
        _check_signature(hub, call)
        with hub.blobs.incoming(max_bytes=int(call.parts["size"])) as blob:
            async for piece in _pieces(call):
                await run_in_threadpool(blob.write, piece)
            await run_in_threadpool(blob.finish, call.parts["sha256"], int(call.parts["size"]))
        return Response(headers={"ETag": f'"{call.parts["sha256"]}"'})

    @routes.add("PUT", "/lfs/{sha256}/{size}/{upload}/{part}")
    async def put_part(call: Call) -> Response:
        _check_signature(hub, call)
        size, start = int(call.parts["size"]), (int(call.parts["part"]) - 1) * PART_BYTES
        left = min(PART_BYTES, size - start)
        with hub.blobs.part(call.parts["upload"], start) as file:
            async for piece in _pieces(call):
                left -= len(piece)
                if left < 0:
                    raise ContentMismatchError("A part is longer than was announced.")
                await run_in_threadpool(file.write, piece)
        if left:
            raise ContentMismatchError(f"A part lacks {left:,} bytes.")
        return Response(headers={"ETag": f'"{call.parts["part"]}"'})

    @routes.add("POST", "/lfs/{sha256}/{size}/{upload}")
    async def complete(call: Call) -> Response:
        _check_signature(hub, call)
        await run_in_threadpool(hub.blobs.finish_parts, call.parts["upload"], call.parts["sha256"], int(call.parts["size"]))
        return JSONResponse({}, media_type="application/vnd.git-lfs+json")


def _add_xet(routes: Routes, hub: Hub) -> None:
    def check_token(call: Call) -> None:
        _, _, token = call.request.headers.get("authorization", "").partition(" ")
        fields = re.fullmatch(r"write\?expires=(\d{1,15})&signature=(\w+)", token)
        if not fields or not hub.signatures.is_valid("XET", "write", *fields.groups()):
            raise RefusalError(401, "The Xet token is not one of this server, does not allow writing, or has expired.")

    @routes.add("POST", f"{XET}/{{store}}/v1/xorbs/default/{{hash}}")
    async def add_xorb(call: Call) -> Response:
        check_token(call)
        digest = from_hex(call.parts["hash"])
        received = await _receive(hub, call, 2 * MAX_XORB_BYTES)
        try:
            inserted = await run_in_threadpool(hub.xet.add_xorb, digest, received)
        finally:
            received.unlink(missing_ok=True)
        return JSONResponse({"was_inserted": inserted})

    @routes.add("POST", f"{XET}/{{store}}/v1/shards")
    async def add_shard(call: Call) -> Response:
        check_token(call)
        received = await _receive(hub, call, 2 * MAX_SHARD_BYTES)
        try:
            files = read_shard(await run_in_threadpool(received.read_bytes))
        finally:
            received.unlink(missing_ok=True)
        await run_in_threadpool(hub.xet.register, files)
        return JSONResponse({"result": 1})

    @routes.add("GET", f"{XET}/{{store}}/v1/chunks/{{prefix}}/{{hash}}")
    def find_chunk(call: Call) -> Response:
        raise RefusalError(404, "This server does not tell one client of the chunks of another.")


async def _pieces(call: Call) -> AsyncIterator[bytes]:
    """The body in pieces of about `PIECE_BYTES`, however small they arrive."""
    waiting, size = [], 0
    async for piece in call.request.stream():
        waiting.append(piece)
        size += len(piece)
        if size >= PIECE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)


async def _receive(hub: Hub, call: Call, max_bytes: int) -> Path:
    """The body in a temporary file, which the caller removes."""
    path, size = hub.blobs.temporary(), 0
    try:
        with path.open("xb") as file:
            async for piece in _pieces(call):
                size += len(piece)
                if size > max_bytes:
                    raise RefusalError(413, f"At most {max_bytes:,} bytes are allowed here.")
                await run_in_threadpool(file.write, piece)
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def file_response(hub: Hub, call: Call, repository: Repository, entry: Entry, headers: dict[str, str]) -> Response:
    """The content of a file, whole or the range that was asked for."""
    name = entry.path.rpartition("/")[2]
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    headers = headers | FILE_HEADERS | {"Content-Disposition": f"inline; filename*=UTF-8''{quote(name)}"}
    if entry.lfs is not None:
        headers |= {"ETag": f'"{entry.lfs.sha256}"', "X-Linked-ETag": f'"{entry.lfs.sha256}"', "X-Linked-Size": str(entry.lfs.size)}
        path = hub.blobs.path(entry.lfs.sha256)
        if not path.is_file():
            raise RefusalError(410, f"The content of {entry.path} is missing on this server; upload it again.")
        return LargeFileResponse(path, media_type=media_type, headers=headers)
    content = repository.read(entry)
    headers |= {"ETag": f'"{entry.oid}"'}
    asked = _RANGE.fullmatch(call.request.headers.get("range", ""))
    if not asked or asked.groups() == ("", ""):
        return Response(content, media_type=media_type, headers=headers)
    first, last = asked.groups()
    start = max(0, len(content) - int(last)) if first == "" else int(first)
    end = len(content) if first == "" or last == "" else min(len(content), int(last) + 1)
    if start >= end:
        return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{len(content)}"})
    return Response(content[start:end], 206, headers | {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}, media_type)
