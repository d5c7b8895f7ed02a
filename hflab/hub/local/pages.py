"""The local Hub's pages for people: what there is, cards with their pictures, files, history, discussions, and how to use a model.

Plain HTML from templates, without scripts and without anything from another host. What users wrote is escaped; Markdown is rendered with its HTML
shown as text. Pages only read.
"""

import html
import json
import re
from collections.abc import Iterator
from functools import partial
from http.cookies import SimpleCookie
from importlib import resources
from itertools import islice
from typing import Any
from urllib.parse import parse_qs, quote

import jinja2
from dulwich.objects import Commit, ObjectID
from markdown_it import MarkdownIt
from markupsafe import Markup
from starlette.responses import HTMLResponse, RedirectResponse, Response

from .access import User
from .git_tree import Entry
from .http import Call, RefusalError, Routes
from .hub import SESSION_COOKIE, Hub
from .repository import DEFAULT_BRANCH, Repository, RevisionNotFoundError, describe
from .repository_facts import card_metadata, card_tags, repository_facts

SHOWN_BYTES = 300_000  # of a text file or a card
SHOWN_LINES = 4000  # of a difference
ROWS = 50
SESSION_SECONDS = 12 * 3600
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
_IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg")


def _bytes(size: int) -> str:
    """A size as people read it."""
    number, unit = float(size), "bytes"
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            break
        number /= 1000
    return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"


# HTML that cards use for its layout; of all other, and with any attribute, the source is shown
_PLAIN_HTML = re.compile(r"(?:\s*(?:</?(?:details|summary|b|i|em|strong|sub|sup|kbd|p|div|center)>|<(?:br|hr) ?/?>)|[^<>])+", re.IGNORECASE)


def _render_html(text: str) -> str:
    return text if _PLAIN_HTML.fullmatch(text) else html.escape(text)


def render_markdown(text: str, files: str = "", pages: str = "") -> Markup:
    """Markdown as HTML; relative images are looked for below `files`, relative links below `pages`."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    for kind in ("html_block", "html_inline"):
        parser.add_render_rule(kind, lambda renderer, tokens, index, options, env: _render_html(tokens[index].content))
    tokens = parser.parse(text)
    for token in _walk(tokens):
        for kind, attribute, base in (("image", "src", files), ("link_open", "href", pages)):
            target = str(token.attrs.get(attribute, ""))
            if token.type == kind and base and target and "://" not in target and not target.startswith(("/", "#", "data:", "mailto:")):
                token.attrs[attribute] = f"{base}/{target.removeprefix('./')}"
    return Markup(parser.renderer.render(tokens, parser.options, {}))


def _walk(tokens: list[Any]) -> Iterator[Any]:
    for token in tokens:
        yield token
        yield from _walk(token.children or [])


class Pages:
    """Renders the templates of this package."""

    def __init__(self) -> None:
        loader = jinja2.PackageLoader(__package__, "pages")
        self._templates = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
        self._templates.filters |= {"bytes": _bytes, "markdown": render_markdown}

    def render(self, template: str, call: Call, user: User | None, status: int = 200, **values: Any) -> Response:
        """A page; `values` are the template's."""
        shown = {"user": user, "search": "", "repo_type": "model", "address": str(call.request.base_url).rstrip("/")} | values
        return HTMLResponse(self._templates.get_template(template).render(shown), status, PAGE_HEADERS)


def page_routes(hub: Hub, pages: Pages) -> Routes:
    """The routes of the pages; included last, since a repository can have almost any name."""
    routes = Routes()
    style = (resources.files(__package__) / "pages" / "style.css").read_text("utf-8")

    @routes.add("GET", "/-/style.css")
    def style_sheet(call: Call) -> Response:
        return Response(style, media_type="text/css", headers={"Cache-Control": "max-age=60"})

    @routes.add("GET", "/-/sign-in")
    def sign_in_form(call: Call) -> Response:
        return pages.render("sign_in.html", call, hub.user(call.request), wrong=False)

    @routes.add("POST", "/-/sign-in")
    async def sign_in(call: Call) -> Response:
        fields = parse_qs((await call.request.body())[:10_000].decode(errors="replace"))
        user = hub.tokens.user(f"Bearer {fields.get('token', [''])[0]}")
        if user is None:
            return pages.render("sign_in.html", call, None, 401, wrong=True)
        cookie: SimpleCookie = SimpleCookie()
        cookie[SESSION_COOKIE] = quote(hub.new_session(user, SESSION_SECONDS))
        cookie[SESSION_COOKIE] |= {"path": "/", "httponly": True, "samesite": "Lax", "max-age": SESSION_SECONDS}
        return RedirectResponse("/", 303, {"Set-Cookie": cookie[SESSION_COOKIE].OutputString()})

    @routes.add("GET", "/-/sign-out")
    def sign_out(call: Call) -> Response:
        return RedirectResponse("/", 303, {"Set-Cookie": f"{SESSION_COOKIE}=; Path=/; Max-Age=0"})

    for repo_type, prefix in (("dataset", "/datasets"), ("model", "")):
        routes.add("GET", prefix or "/")(partial(_list, hub, pages, repo_type, prefix))
        base = prefix + "/{repo:repo}"
        for path, view in (
            ("", _card),
            ("/tree/{revision}{path:rest}", _files),
            ("/blob/{revision}/{path:path}", _file),
            ("/commits/{revision}", _history),
            ("/commit/{revision}", _changes),
            ("/discussions", _discussions),
            ("/discussions/{number}", _discussion),
        ):
            routes.add("GET", base + path)(partial(_open, hub, pages, repo_type, prefix, view))
    return routes


def _list(hub: Hub, pages: Pages, repo_type: str, prefix: str, call: Call) -> Response:
    user, query = hub.user(call.request), call.request.query_params
    search, page = query.get("search", ""), _page_number(call)
    shown = [
        repository
        for repository in hub.repositories.all(repo_type)
        if search.casefold() in repository.name.casefold() and (user is not None or not repository.settings()["private"])
    ]
    found = sorted((repository_facts(repository, repository.resolve(DEFAULT_BRANCH), full=False) for repository in shown), key=_changed, reverse=True)
    rows = found[page * ROWS : (page + 1) * ROWS]
    values: dict[str, Any] = {"found": rows, "count": len(found), "more": len(found) > (page + 1) * ROWS, "page": page, "search": search}
    return pages.render("repositories.html", call, user, repo_type=repo_type, prefix=prefix, **values)


def _changed(facts: dict[str, Any]) -> str:
    return str(facts["lastModified"])


def _open(hub: Hub, pages: Pages, repo_type: str, prefix: str, view: Any, call: Call) -> Response:
    """A page of one repository: what all of them show, and what `view` adds."""
    repository = hub.readable(call.request, repo_type, call.parts["repo"])
    base, revision = f"{prefix}/{repository.name}", call.parts.get("revision", DEFAULT_BRANCH)
    if repository.name != call.parts["repo"]:  # it was renamed
        return RedirectResponse(base, 301)
    commit = repository.resolve(revision)
    template, values = view(hub, call, repository, commit, base)

    def self_at(kind: str, path: str = "") -> str:
        return f"{base}/{kind}/{quote(revision, safe='')}" + (f"/{quote(path)}" if path else "")

    common = {
        "name": repository.name,
        "private": repository.settings()["private"],
        "tags": card_tags(card_metadata(repository, commit)),
        "base": base,
        "revision": revision,
        "self_at": self_at,
        "repo_type": repo_type,
    }
    return pages.render(template, call, hub.user(call.request), **common | values)


Values = tuple[str, dict[str, Any]]


def _card(hub: Hub, call: Call, repository: Repository, commit: ObjectID, base: str) -> Values:
    entries = [entry for entry in repository.list_folder(commit, recursive=True) or () if not entry.is_folder]
    metadata, text = card_metadata(repository, commit), _text(hub, repository, repository.find(commit, "README.md"))
    if text is not None and text.startswith("---\n") and (end := text.find("\n---", 3)) >= 0:
        text = text[end + 4 :]
    last = next(repository.history(commit))
    values = {
        "card": render_markdown(text, f"{base}/resolve/{DEFAULT_BRANCH}", f"{base}/blob/{DEFAULT_BRANCH}") if text else None,
        "snippet": usage_snippet(
            repository, metadata, _text(hub, repository, repository.find(commit, "config.json")), str(call.request.base_url).rstrip("/")
        ),
        "size": _bytes(sum(entry.size for entry in entries)),
        "num_files": len(entries),
        "commit": commit.decode(),
        "changed": last.date.isoformat(),
        "licence": metadata.get("license"),
    }
    return "card.html", {"view": "card", **values}


def usage_snippet(repository: Repository, metadata: dict[str, Any], config: str | None, address: str) -> str:
    """How to use a repository from here, to be copied."""
    lines = [f"# in the shell: export HF_ENDPOINT={address}"]
    try:
        facts = json.loads(config or "{}")
    except ValueError:
        facts = {}
    if repository.repo_type == "dataset":
        lines += ["from datasets import load_dataset", "", f'data = load_dataset("{repository.name}")']
    elif isinstance(facts, dict) and facts.get("model_type"):
        remote = ", trust_remote_code=True" if facts.get("auto_map") else ""
        task = metadata.get("pipeline_tag")
        if isinstance(task, str):
            lines += ["from transformers import pipeline", "", f'pipe = pipeline("{task}", "{repository.name}"{remote})']
        else:
            lines += ["from transformers import AutoModel", "", f'model = AutoModel.from_pretrained("{repository.name}"{remote})']
    else:
        lines += ["from huggingface_hub import snapshot_download", "", f'folder = snapshot_download("{repository.name}")']
    return "\n".join(lines)


def _files(hub: Hub, call: Call, repository: Repository, commit: ObjectID, base: str) -> Values:
    folder = call.parts["path"].strip("/")
    entries = repository.list_folder(commit, folder)
    if entries is None:
        raise RefusalError(404, f"There is no folder {folder!r} at {call.parts['revision']!r}.", "EntryNotFound")
    ordered = sorted(entries, key=lambda entry: (not entry.is_folder, entry.path))
    refs = [*repository.branches(), *repository.tags()]
    return "files.html", {"view": "files", "entries": ordered, "crumbs": _crumbs(folder), "refs": refs}


def _file(hub: Hub, call: Call, repository: Repository, commit: ObjectID, base: str) -> Values:
    entry = repository.find(commit, call.parts["path"].strip("/"))
    if entry is None or entry.is_folder:
        raise RefusalError(404, f"There is no file {call.parts['path']!r} at {call.parts['revision']!r}.", "EntryNotFound")
    image = entry.path.lower().endswith(_IMAGES)
    text = None if image else _text(hub, repository, entry)
    return "file.html", {"view": "file", "entry": entry, "crumbs": _crumbs(entry.path), "image": image, "text": text}


def _text(hub: Hub, repository: Repository, entry: Entry | None) -> str | None:
    """A file's text, or None for what is none, is too large, or is not there."""
    if entry is None or entry.is_folder or entry.size > SHOWN_BYTES:
        return None
    content = hub.blobs.path(entry.lfs.sha256).read_bytes() if entry.lfs else repository.read(entry)
    try:
        return None if b"\0" in content else content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError:
        return None


def _crumbs(path: str) -> list[tuple[str, str]]:
    parts = path.split("/") if path else []
    return [(part, "/".join(parts[: depth + 1])) for depth, part in enumerate(parts)]


def _history(hub: Hub, call: Call, repository: Repository, commit: ObjectID, base: str) -> Values:
    page = _page_number(call)
    commits = list(islice(repository.history(commit), page * ROWS, (page + 1) * ROWS + 1))
    return "history.html", {"view": "history", "commits": commits[:ROWS], "more": len(commits) > ROWS, "page": page}


def _changes(hub: Hub, call: Call, repository: Repository, commit: ObjectID, base: str) -> Values:
    found = repository.git[commit]
    assert isinstance(found, Commit)
    lines = repository.diff(found.parents[0] if found.parents else None, commit).splitlines()
    return "changes.html", {"view": "changes", "change": describe(found), "lines": lines[:SHOWN_LINES], "cut": len(lines) > SHOWN_LINES}


def _discussions(hub: Hub, call: Call, repository: Repository, commit: ObjectID, base: str) -> Values:
    return "discussions.html", {"view": "discussions", "discussions": list(hub.discussions.all(repository))}


def _discussion(hub: Hub, call: Call, repository: Repository, commit: ObjectID, base: str) -> Values:
    number = call.parts["number"]
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise RevisionNotFoundError(f"There is no discussion {number!r}.")
    return "discussion.html", {"view": "discussions", "item": hub.discussions.read(repository, int(number))}


def _page_number(call: Call) -> int:
    text = call.request.query_params.get("page", "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
