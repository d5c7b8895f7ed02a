"""The Hub's API for discussions and pull requests."""

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from .discussions import STATUSES
from .http import Call, RefusalError, Routes, read_json
from .hub import TYPES, Hub
from .repository import DEFAULT_BRANCH, Repository

PAGE = 50


def discussion_routes(hub: Hub) -> Routes:
    """The routes of discussions."""
    routes = Routes()
    for plural, repo_type in TYPES.items():
        _add_reading(routes, hub, plural, repo_type)
        _add_writing(routes, hub, plural, repo_type)
    return routes


def _facts(repository: Repository, found: dict[str, Any]) -> dict[str, Any]:
    shown = found | {"repo": {"name": repository.name, "type": repository.repo_type}}
    if found["isPullRequest"]:
        shown["changes"] = {"base": f"refs/heads/{DEFAULT_BRANCH}"} | {key: found[key] for key in ("mergeCommitId",) if key in found}
        shown["filesWithConflicts"] = repository.conflicts(found["num"]) if found["status"] in ("open", "draft") else []
    return shown


def _add_reading(routes: Routes, hub: Hub, plural: str, repo_type: str) -> None:
    base = f"/api/{plural}/{{repo:repo}}/discussions"

    @routes.add("GET", base)
    def list_discussions(call: Call) -> Response:
        repository, query = hub.readable(call.request, repo_type, call.parts["repo"]), call.request.query_params
        kind, status, author = query.get("type"), query.get("status"), query.get("author")
        found = [
            discussion
            for discussion in hub.discussions.all(repository)
            if kind in (None, "all", "pull_request" if discussion["isPullRequest"] else "discussion")
            and status in (None, "all", "closed" if discussion["status"] in ("closed", "merged") else "open")
            and author in (None, discussion["author"]["name"])
        ]
        start = PAGE * int(query.get("p", "0") if query.get("p", "0").isdigit() else 0)
        page = [{key: value for key, value in _facts(repository, item).items() if key != "events"} for item in found[start : start + PAGE]]
        return JSONResponse({"discussions": page, "count": len(found), "start": start})

    @routes.add("GET", f"{base}/{{number}}")
    def details(call: Call) -> Response:
        repository = hub.readable(call.request, repo_type, call.parts["repo"])
        found = _facts(repository, hub.discussions.read(repository, _number(call)))
        if found["isPullRequest"] and call.request.query_params.get("diff"):
            found["diff"] = repository.pull_request_diff(found["num"])
        return JSONResponse(found)


def _add_writing(routes: Routes, hub: Hub, plural: str, repo_type: str) -> None:
    base = f"/api/{plural}/{{repo:repo}}/discussions"

    def act(call: Call) -> tuple[Repository, str, int]:
        repository, user = hub.writable(call.request, repo_type, call.parts["repo"])
        return repository, user.name, _number(call)

    @routes.add("POST", base)
    async def create(call: Call) -> Response:
        body = await read_json(call)
        repository, user = hub.writable(call.request, repo_type, call.parts["repo"])
        title = str(body.get("title") or "").strip()
        if not 3 <= len(title) <= 200:
            raise RefusalError(400, f"A title has 3 to 200 characters, not {len(title)}.")
        text, pull_request = str(body.get("description") or ""), bool(body.get("pullRequest"))
        found = await run_in_threadpool(hub.discussions.create, repository, title, text, user.name, pull_request=pull_request)
        return JSONResponse({"num": found["num"], "pullRequest": found["isPullRequest"]})

    @routes.add("POST", f"{base}/{{number}}/comment")
    async def comment(call: Call) -> Response:
        body = await read_json(call)
        repository, user, number = act(call)
        event = await run_in_threadpool(hub.discussions.comment, repository, number, str(body.get("comment") or ""), user)
        return JSONResponse({"newMessage": event})

    @routes.add("POST", f"{base}/{{number}}/comment/{{event}}/edit")
    async def edit(call: Call) -> Response:
        body = await read_json(call)
        repository, _, number = act(call)
        event = await run_in_threadpool(hub.discussions.edit_comment, repository, number, call.parts["event"], str(body.get("content") or ""))
        return JSONResponse({"updatedComment": event})

    @routes.add("POST", f"{base}/{{number}}/comment/{{event}}/hide")
    def hide(call: Call) -> Response:
        repository, _, number = act(call)
        return JSONResponse({"updatedComment": hub.discussions.edit_comment(repository, number, call.parts["event"], None)})

    @routes.add("POST", f"{base}/{{number}}/title")
    async def rename(call: Call) -> Response:
        body = await read_json(call)
        repository, user, number = act(call)
        event = await run_in_threadpool(hub.discussions.rename, repository, number, str(body.get("title") or ""), user)
        return JSONResponse({"newTitle": event})

    @routes.add("POST", f"{base}/{{number}}/status")
    async def set_status(call: Call) -> Response:
        body = await read_json(call)
        repository, user, number = act(call)
        status = str(body.get("status"))
        if status not in STATUSES or status == "merged":
            raise RefusalError(400, f"The status can become open, closed or draft, not {status[:40]!r}.")
        event = await run_in_threadpool(hub.discussions.set_status, repository, number, status, user, str(body.get("comment") or ""))
        return JSONResponse({"newStatus": event})

    @routes.add("POST", f"{base}/{{number}}/merge")
    async def merge(call: Call) -> Response:
        body = await read_json(call)
        repository, user, number = act(call)
        oid = await run_in_threadpool(hub.discussions.merge, repository, number, user, str(body.get("comment") or ""))
        return JSONResponse({"mergeCommitId": oid})


def _number(call: Call) -> int:
    text = call.parts["number"]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
