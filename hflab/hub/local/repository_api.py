"""The Hub's API for repositories: users, creation, settings, listing, branches, tags, history, and commits.

The answers have the fields that huggingface_hub reads, under the names it reads them by. Knows nothing about large files' bytes.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any
from urllib.parse import quote

from dulwich.objects import ObjectID
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from .http import Call, RefusalError, Routes, read_body, read_bytes, read_json
from .hub import TYPES, Hub
from .repository import DEFAULT_BRANCH, LARGE_ENDINGS, REPO_TYPES, ConflictError, LargeFile, Repository
from .repository_facts import api_date, card_errors, expanded, repository_facts, sibling

LARGE_FILE_BYTES = 10 * 1024 * 1024  # above it a file is large whatever its name, and in git nothing is larger
MAX_COMMIT_BYTES = 64 * 1024 * 1024
PAGE = 1000


def repository_routes(hub: Hub) -> Routes:
    """The routes of the API for repositories."""
    routes = Routes()

    @routes.add("GET", "/api/whoami-v2")
    def who_am_i(call: Call) -> Response:
        user = hub.user(call.request)
        if user is None:
            raise RefusalError(401, "Invalid username or password.")
        role = "write" if user.may_write else "read"
        token = {"type": "access_token", "accessToken": {"displayName": "local", "role": role}}
        return JSONResponse({"type": "user", "id": user.name, "name": user.name, "fullname": user.name, "isPro": False, "orgs": [], "auth": token})

    @routes.add("POST", "/api/repos/create")
    async def create(call: Call) -> Response:
        body, user = await read_json(call), hub.writer(call.request)
        repo_type, name = _named(body, user.name)
        private = body.get("visibility") == "private" or bool(body.get("private"))
        try:
            repository = await run_in_threadpool(hub.repositories.create, repo_type, name, private=private, author=user.name)
        except ConflictError as conflict:  # clients that do not mind read the address all the same
            raise RefusalError(409, str(conflict), url=_url(call, hub.repositories.open(repo_type, name))) from None
        return JSONResponse({"url": _url(call, repository), "name": name, "id": repository.settings()["id"]})

    @routes.add("DELETE", "/api/repos/delete")
    async def delete(call: Call) -> Response:
        body = await read_json(call)
        user = hub.writer(call.request)
        repo_type, name = _named(body, user.name)
        hub.writable(call.request, repo_type, name)
        await run_in_threadpool(hub.repositories.delete, repo_type, name)
        return JSONResponse({})

    @routes.add("POST", "/api/repos/move")
    async def move(call: Call) -> Response:
        body = await read_json(call)
        repo_type = _repo_type(body)
        hub.writable(call.request, repo_type, str(body.get("fromRepo")))
        await run_in_threadpool(hub.repositories.move, repo_type, str(body.get("fromRepo")), str(body.get("toRepo")))
        return JSONResponse({})

    @routes.add("POST", "/api/validate-yaml")
    async def validate_yaml(call: Call) -> Response:
        errors = card_errors((await read_json(call)).get("content"))
        return JSONResponse({"errors": [{"message": error} for error in errors], "warnings": []}, 400 if errors else 200)

    for plural, repo_type in TYPES.items():
        for add in (_add_repositories, _add_refs, _add_commits, _add_content):
            add(routes, hub, plural, repo_type)
    return routes


def _opened(hub: Hub, repo_type: str, call: Call) -> Repository:
    return hub.readable(call.request, repo_type, call.parts["repo"])


def _at(hub: Hub, repo_type: str, call: Call) -> tuple[Repository, ObjectID]:
    repository = _opened(hub, repo_type, call)
    return repository, repository.resolve(call.parts["revision"])


def _add_repositories(routes: Routes, hub: Hub, plural: str, repo_type: str) -> None:
    base = f"/api/{plural}/{{repo:repo}}"

    @routes.add("GET", f"/api/{plural}")
    def list_repositories(call: Call) -> Response:
        query = call.request.query_params
        user, search, author = hub.user(call.request), query.get("search", "").casefold(), query.get("author")
        found = [
            repository_facts(repository, repository.resolve(DEFAULT_BRANCH), full=bool(query.get("full") or query.get("cardData")))
            for repository in hub.repositories.all(repo_type)
            if search in repository.name.casefold()
            and author in (None, repository.name.split("/")[0])
            and (user is not None or not repository.settings()["private"])
        ]
        wanted = set(query.getlist("filter"))
        found = [facts for facts in found if wanted <= set(facts["tags"])]
        found.sort(key=lambda facts: facts["lastModified"], reverse=True)
        return _page(call, found, min(PAGE, _number(query.get("limit"), PAGE)))

    @routes.add("GET", base)
    def info(call: Call) -> Response:
        repository = _opened(hub, repo_type, call)
        return _info(call, repository, repository.resolve(DEFAULT_BRANCH))

    @routes.add("GET", f"{base}/revision/{{revision}}")
    def info_at(call: Call) -> Response:
        return _info(call, *_at(hub, repo_type, call))

    @routes.add("PUT", f"{base}/settings")
    async def settings(call: Call) -> Response:
        body = await read_json(call)
        repository, _ = hub.writable(call.request, repo_type, call.parts["repo"])
        changes: dict[str, Any] = {}
        if "private" in body or "visibility" in body:
            changes["private"] = bool(body.get("private")) or body.get("visibility") == "private"
        if body.get("gated"):
            raise RefusalError(400, "Gated repositories need someone who grants access, which this Hub does not have; make it private instead.")
        await run_in_threadpool(repository.change_settings, **changes)
        return JSONResponse({"private": repository.settings()["private"], "gated": False})

    @routes.add("GET", f"{base}/auth-check")
    def auth_check(call: Call) -> Response:
        _opened(hub, repo_type, call)
        return JSONResponse({})


def _add_refs(routes: Routes, hub: Hub, plural: str, repo_type: str) -> None:
    base = f"/api/{plural}/{{repo:repo}}"

    @routes.add("GET", f"{base}/refs")
    def refs(call: Call) -> Response:
        repository = _opened(hub, repo_type, call)
        branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in repository.branches().items()]
        tags = [{"name": name, "ref": f"refs/tags/{name}", "targetCommit": oid} for name, oid in repository.tags().items()]
        pulls = [{"name": name, "ref": f"refs/pr/{name}", "targetCommit": oid} for name, oid in repository.pull_requests().items()]
        return JSONResponse({"branches": branches, "converts": [], "tags": tags, "pullRequests": pulls})

    @routes.add("POST", f"{base}/branch/{{branch}}")
    async def create_branch(call: Call) -> Response:
        body = await read_json(call)
        repository, _ = hub.writable(call.request, repo_type, call.parts["repo"])
        start = repository.resolve(str(body.get("startingPoint") or DEFAULT_BRANCH))
        await run_in_threadpool(repository.create_branch, call.parts["branch"], start)
        return JSONResponse({})

    @routes.add("DELETE", f"{base}/branch/{{branch}}")
    def delete_branch(call: Call) -> Response:
        hub.writable(call.request, repo_type, call.parts["repo"])[0].delete_branch(call.parts["branch"])
        return JSONResponse({})

    @routes.add("POST", f"{base}/tag/{{revision}}")
    async def create_tag(call: Call) -> Response:
        body = await read_json(call)
        repository, user = hub.writable(call.request, repo_type, call.parts["repo"])
        commit = repository.resolve(call.parts["revision"])
        await run_in_threadpool(repository.create_tag, str(body.get("tag")), commit, str(body.get("message") or ""), user.name)
        return JSONResponse({})

    @routes.add("DELETE", f"{base}/tag/{{tag}}")
    def delete_tag(call: Call) -> Response:
        hub.writable(call.request, repo_type, call.parts["repo"])[0].delete_tag(call.parts["tag"])
        return JSONResponse({})


def _add_commits(routes: Routes, hub: Hub, plural: str, repo_type: str) -> None:
    base = f"/api/{plural}/{{repo:repo}}"

    @routes.add("GET", f"{base}/commits/{{revision}}")
    def commits(call: Call) -> Response:
        repository, commit = _at(hub, repo_type, call)
        found = (
            {
                "id": entry.oid,
                "title": entry.title,
                "message": entry.message,
                "authors": [{"user": entry.author}],
                "date": api_date(entry.date),
            }
            for entry in repository.history(commit)
        )
        return _page(call, found, 50)

    @routes.add("POST", f"{base}/super-squash/{{revision}}")
    async def squash(call: Call) -> Response:
        body = await read_json(call)
        repository, user = hub.writable(call.request, repo_type, call.parts["repo"])
        message = str(body.get("message") or f"Super-squash branch '{call.parts['revision']}'")
        await run_in_threadpool(repository.squash, call.parts["revision"], message, user.name)
        return JSONResponse({})


def _add_content(routes: Routes, hub: Hub, plural: str, repo_type: str) -> None:
    base = f"/api/{plural}/{{repo:repo}}"

    @routes.add("GET", f"{base}/tree/{{revision}}{{path:rest}}")
    def tree(call: Call) -> Response:
        repository, commit = _at(hub, repo_type, call)
        query, folder = call.request.query_params, call.parts["path"].strip("/")
        entries = repository.list_folder(commit, folder, recursive=_flag(query.get("recursive")))
        if entries is None:
            raise RefusalError(404, f"{folder!r} does not exist in {call.parts['revision']!r}.", "EntryNotFound")
        if _flag(query.get("expand")):
            return _page(call, (expanded(hub, repository, commit, entry) for entry in entries), 50)
        return _page(call, map(hub.entry_facts, entries), PAGE)

    @routes.add("POST", f"{base}/paths-info/{{revision}}")
    async def paths_info(call: Call) -> Response:
        body = await read_body(call)
        repository, commit = _at(hub, repo_type, call)
        paths, expand = body.get("paths", []), _flag(str(body.get("expand", "")))
        found = [entry for path in paths if (entry := repository.find(commit, str(path).strip("/"))) is not None]
        return JSONResponse([expanded(hub, repository, commit, entry) if expand else hub.entry_facts(entry) for entry in found])

    @routes.add("POST", f"{base}/preupload/{{revision}}")
    async def preupload(call: Call) -> Response:
        body = await read_json(call, MAX_COMMIT_BYTES)
        repository, _ = hub.writable(call.request, repo_type, call.parts["repo"])
        commit = repository.resolve(call.parts["revision"])
        return JSONResponse({"files": [_upload_mode(repository, commit, file) for file in body.get("files", [])]})

    @routes.add("POST", f"{base}/commit/{{revision}}")
    async def commit(call: Call) -> Response:
        header, changes, folders = await read_commit(call)
        repository, user = hub.writable(call.request, repo_type, call.parts["repo"])
        await run_in_threadpool(_check_large_files, hub, changes)
        return await run_in_threadpool(_commit, hub, call, repository, user.name, header, changes, folders)


def _commit(
    hub: Hub,
    call: Call,
    repository: Repository,
    author: str,
    header: dict[str, Any],
    changes: dict[str, bytes | LargeFile | None],
    folders: tuple[str, ...],
) -> Response:
    summary, text, branch, pull_request = str(header.get("summary") or "Update"), str(header.get("description") or ""), call.parts["revision"], None
    if _flag(call.request.query_params.get("create_pr")):
        pull_request = hub.discussions.create(repository, summary, text, author, pull_request=True)["num"]
        branch = f"refs/pr/{pull_request}"
    parent = header.get("parentCommit")
    if not isinstance(parent, str | None):
        raise RefusalError(400, "parentCommit must be the hash of a commit.")
    oid = repository.commit(branch, changes, summary=summary, description=text, author=author, expected_parent=parent, removed_folders=folders)
    if branch.startswith("refs/pr/"):
        hub.discussions.note_commit(repository, int(branch.removeprefix("refs/pr/")), oid, summary, author)
    url = _url(call, repository)
    answer = {"success": True, "commitOid": oid, "commitUrl": f"{url}/commit/{oid}", "hookOutput": ""}
    if pull_request is not None:
        answer["pullRequestUrl"] = f"{url}/discussions/{pull_request}"
    return JSONResponse(answer)


def _check_large_files(hub: Hub, changes: dict[str, bytes | LargeFile | None]) -> None:
    for path, change in changes.items():
        if isinstance(change, LargeFile):
            size = hub.blobs.size(change.sha256)
            if size is None:
                raise RefusalError(400, f"The content of {path!r}, SHA-256 {change.sha256}, was not uploaded; upload it first.")
            if change.size not in (-1, size):
                raise RefusalError(400, f"{path!r} is said to have {change.size} bytes, its content has {size}.")
            changes[path] = LargeFile(change.sha256, size)


async def read_commit(call: Call) -> tuple[dict[str, Any], dict[str, bytes | LargeFile | None], tuple[str, ...]]:
    """Header, changes by path and removed folders of a commit, which comes as a line of JSON for each. Raises `RefusalError`."""
    header: dict[str, Any] = {}
    changes: dict[str, bytes | LargeFile | None] = {}
    folders = []
    for number, line in enumerate((await read_bytes(call, MAX_COMMIT_BYTES)).splitlines(), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                header = dict(value)
            elif key == "file":
                changes[str(value["path"])] = _content(value)
            elif key == "lfsFile":
                changes[str(value["path"])] = LargeFile(str(value["oid"]), int(value.get("size", -1)))
            elif key == "deletedFile":
                changes[str(value["path"])] = None
            elif key == "deletedFolder":
                folders.append(str(value["path"]))
            else:
                raise ValueError(f"the key {key!r} is not known")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
            raise RefusalError(400, f"Line {number} of the commit is not as it must be: {error}.") from None
    return header, changes, tuple(folders)


def _content(value: dict[str, Any]) -> bytes:
    if value.get("encoding", "utf-8") == "base64":
        return base64.b64decode(value["content"], validate=True)
    return str(value["content"]).encode()


def _upload_mode(repository: Repository, commit: ObjectID, file: Any) -> dict[str, Any]:
    """Whether a file is to be committed as it is or uploaded first, and the hash of what is there now."""
    try:
        path, size, sample = str(file["path"]), int(file["size"]), base64.b64decode(file.get("sample", ""))
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise RefusalError(400, f"A file of the request is not as it must be: {error!r}.") from None
    large = path.rpartition(".")[2].lower() in LARGE_ENDINGS or size > LARGE_FILE_BYTES or not _is_text(sample)
    present = repository.find(commit, path.strip("/"))
    oid = None if present is None or present.is_folder else present.lfs.sha256 if present.lfs else present.oid
    return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}


def _is_text(sample: bytes) -> bool:
    return b"\0" not in sample


def _info(call: Call, repository: Repository, commit: ObjectID) -> Response:
    facts = repository_facts(repository, commit, full=True)
    if _flag(call.request.query_params.get("blobs")):
        entries = repository.list_folder(commit, recursive=True) or ()
        facts["siblings"] = [sibling(entry) for entry in entries if not entry.is_folder]
    return JSONResponse(facts)


def _page(call: Call, items: Iterable[Any], size: int) -> Response:
    """One page of a list, with the address of the next one in the header `Link`."""
    start = _number(call.request.query_params.get("cursor"), 0)
    iterator: Iterator[Any] = islice(iter(items), start, None)
    page = list(islice(iterator, size))
    headers = {}
    if next(iterator, None) is not None:
        following = call.request.url.include_query_params(cursor=start + size)
        headers["Link"] = f'<{following}>; rel="next"'
    return JSONResponse(page, headers=headers)


def _named(body: dict[str, Any], user: str) -> tuple[str, str]:
    name = str(body.get("name") or "")
    owner = body.get("organization")
    return _repo_type(body), name if "/" in name else f"{owner or user}/{name}"


def _repo_type(body: dict[str, Any]) -> str:
    repo_type = body.get("type") or "model"
    if repo_type not in REPO_TYPES:
        raise RefusalError(400, f"This Hub keeps models and datasets, no {str(repo_type)[:40]}.")
    return str(repo_type)


def _url(call: Call, repository: Repository) -> str:
    prefix = "datasets/" if repository.repo_type == "dataset" else ""
    return f"{str(call.request.base_url).rstrip('/')}/{prefix}{quote(repository.name)}"


def _flag(value: str | None) -> bool:
    return (value or "").lower() in ("1", "true")


def _number(value: str | None, default: int) -> int:
    return int(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 16 else default
