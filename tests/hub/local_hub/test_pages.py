"""The pages for people: what they show, that nothing of a card or a file can run, and, where Chromium is installed, that they fit any screen."""

import shutil
import subprocess
from html.parser import HTMLParser
from urllib.parse import quote

import numpy as np
import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from PIL import Image

from .conftest import WRITE_TOKEN
from .test_server import request

CARD = """---
license: apache-2.0
tags: [tiny]
pipeline_tag: text-generation
---
# A card

| a | b |
| --- | --- |
| 1 | 2 |

![curve](learning_curve.png) and <script>alert(1)</script> and [bad](javascript:alert(1)) <img src=x onerror=alert(1)>

<details>
<summary>More</summary>

hidden

</details>
"""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Tags(HTMLParser):
    """All tags of a page with their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def shown(hub, tmp_path_factory):
    """A model with a card and a picture, two commits, a pull request, a hidden model and a data set."""
    api = HfApi(endpoint=hub.address, token=WRITE_TOKEN)
    picture = tmp_path_factory.mktemp("picture") / "learning_curve.png"
    Image.fromarray(np.full((40, 60, 3), (200, 30, 30), np.uint8)).save(picture)
    api.create_repo("ada/shown")
    files = {"README.md": CARD.encode(), "config.json": b'{"model_type": "gpt2"}', "sub/<b>.txt": b"<script>alert(2)</script>\n"}
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    api.create_commit("ada/shown", [*operations, CommitOperationAdd("learning_curve.png", picture)], commit_message="Add <all>")
    api.create_commit("ada/shown", [CommitOperationAdd("config.json", b'{"model_type": "bert"}')], commit_message="Change the config")
    api.create_commit("ada/shown", [CommitOperationAdd("x", b"1")], commit_message="Proposed", create_pr=True)
    api.create_repo("ada/unseen", private=True)
    api.create_repo("ada/table", repo_type="dataset")
    return "ada/shown"


def page(hub, path, token=None):
    status, headers, body = request(hub, "GET", path, token=token, Accept="text/html")
    assert status == 200, (path, body)
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    return Tags(body.decode())


PAGES = ["/", "/?search=sho", "/datasets", "/ada/shown", "/ada/shown/tree/main", "/ada/shown/tree/main/sub", "/ada/shown/commits/main"]
PAGES += ["/ada/shown/blob/main/config.json", f"/ada/shown/blob/main/sub/{quote('<b>.txt')}", "/ada/shown/discussions", "/ada/shown/discussions/1"]
PAGES += ["/-/sign-in"]


@pytest.mark.parametrize("path", PAGES)
def test_nothing_can_run_and_nothing_comes_from_elsewhere(hub, shown, path):
    found = page(hub, path)
    names = {tag for tag, _ in found.tags}
    assert not names & {"script", "iframe", "object", "embed", "base"}
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "action"):
            target = attributes.get(name) or ""
            assert not target.lower().startswith("javascript:")
            if tag in ("img", "link") and target:
                assert target.startswith("/")


def test_the_card_page_tells_what_the_model_is(hub, shown):
    found = page(hub, "/ada/shown")
    assert {"A card", "More", "hidden"} <= {line.strip() for line in found.text.splitlines()}
    assert ("img", {"src": "/ada/shown/resolve/main/learning_curve.png", "alt": "curve"}) in found.tags
    assert "<script>alert(1)</script>" in found.text  # shown, not obeyed
    assert f"HF_ENDPOINT={hub.address}" in found.text
    assert 'pipe = pipeline("text-generation", "ada/shown")' in found.text
    assert "apache-2.0" in found.text
    status, headers, body = request(hub, "GET", "/ada/shown/resolve/main/learning_curve.png", token=None)
    assert (status, headers["Content-Type"], body[:4]) == (200, "image/png", b"\x89PNG")


def test_lists_searches_files_and_history(hub, shown):
    everyone = page(hub, "/").text
    assert "ada/shown" in everyone
    assert "unseen" not in everyone
    assert "ada/unseen" in page(hub, "/", token=WRITE_TOKEN).text
    assert "ada/shown" not in page(hub, "/?search=nothing").text
    assert "ada/table" in page(hub, "/datasets").text
    assert "learning_curve.png" in page(hub, "/ada/shown/tree/main").text
    assert '{"model_type": "bert"}' in page(hub, "/ada/shown/blob/main/config.json").text
    history = page(hub, "/ada/shown/commits/main")
    assert "Add <all>" in history.text
    commit = next(attributes["href"] for tag, attributes in history.tags if tag == "a" and "/ada/shown/commit/" in attributes.get("href", ""))
    changes = page(hub, commit).text
    assert '-{"model_type": "gpt2"}' in changes
    assert '+{"model_type": "bert"}' in changes
    assert "Proposed" in page(hub, "/ada/shown/discussions").text


def test_a_page_that_is_not_there(hub, shown):
    for path in ("/ada/none", "/ada/unseen", "/ada/shown/blob/main/none", "/ada/shown/commit/0000000", "/ada/shown/discussions/9"):
        status, _, body = request(hub, "GET", path, token=None, Accept="text/html")
        assert status == 404
        assert b"<h1>404</h1>" in body


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, such as Debian's package")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("path", ["/", "/ada/shown", "/ada/shown/tree/main", "/ada/shown/commits/main"])
def test_a_browser_draws_it_light_and_dark_within_the_screen(hub, shown, tmp_path, path, width):
    pictures = {}
    for scheme, setting in (("light", 1), ("dark", 0)):
        file = tmp_path / f"{scheme}.png"
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}"]
        command += [f"--blink-settings=preferredColorScheme={setting}", f"--window-size={width},900", f"--screenshot={file}", hub.address + path]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        pictures[scheme] = np.asarray(Image.open(file).convert("L"), dtype=float)
        assert pictures[scheme].std() > 5  # something is drawn
    assert pictures["light"][-50:].mean() > 200
    assert pictures["dark"][-50:].mean() < 80
    # content that ran over the edge would leave ink in the last columns
    edge = pictures["light"][:, -4:]
    assert edge.std() < 25
