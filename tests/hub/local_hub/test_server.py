"""The server as a process: hostile requests, many clients, a killed server, a full disk, and its command."""

import hashlib
import http.client
import json
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from .conftest import READ_TOKEN, WRITE_TOKEN, HubServer, client_environment


def api(server, token=WRITE_TOKEN):
    return HfApi(endpoint=server.address, token=token)


def request(server, method, path, body=None, token=WRITE_TOKEN, **headers):
    """A request with exactly this path; returns status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    if token:
        headers["Authorization"] = f"Bearer {token}"
    connection.putrequest(method, path, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders()
    if body is not None:
        connection.send(body)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, response.headers, content


@pytest.fixture(scope="module")
def repository(hub):
    api(hub).create_repo("ada/r")
    api(hub).create_commit("ada/r", [CommitOperationAdd("README.md", b"# r"), CommitOperationAdd("a/b.txt", b"0123456789")], commit_message="c")
    api(hub).create_repo("ada/hidden", private=True)
    return "ada/r"


OUTSIDE = [
    "/ada/r/resolve/main/../../../../tokens",
    "/ada/r/resolve/main/%2e%2e/%2e%2e/tokens",
    "/ada/r/resolve/main/..%2f..%2f..%2ftokens",
    "/ada/r/resolve/..%2f..%2f..%2ftokens/x",
    "/ada/r/resolve/main//etc/passwd",
    "/ada/r/resolve/main/%2Fetc%2Fpasswd",
    "/../tokens",
    "/%2e%2e/tokens",
    "/..%2f..%2ftokens/r/resolve/main/x",
    "/api/models/..%2f..%2ftokens/tree/main",
    "/api/models/ada%2f..%2f..%2f/r/tree/main",
    "/-/..%2f..%2ftokens",
    "/lfs/..%2f..%2ftokens/12",
    "/ada/r/resolve/main/a%00b",
    "/ada/r/resolve/main/%ff%fe",
    "/ada/r/resolve/refs%2fheads%2f..%2f..%2fconfig/x",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_leaves_the_root(hub, repository, path):
    for method in ("GET", "HEAD"):
        status, _, body = request(hub, method, path)
        assert 400 <= status < 500
        assert WRITE_TOKEN.encode() not in body
        assert b"root:" not in body


def test_hostile_requests_are_refused_without_a_fault(hub, repository):
    """2,000 seeded requests of odd methods, paths, headers and bodies: every answer is below 500, and the Hub goes on."""
    draw = random.Random(3)
    pieces = [
        "api",
        "models",
        "datasets",
        "ada",
        "r",
        "tree",
        "main",
        "resolve",
        "commit",
        "..",
        ".",
        "",
        "%2f",
        "%00",
        "%ff",
        "refs%2fpr%2f1",
        "x" * 300,
    ]
    pieces += [
        "xet",
        "v1",
        "shards",
        "xorbs",
        "default",
        "0" * 64,
        "lfs",
        "12",
        "-",
        "discussions",
        "1",
        "info",
        "objects",
        "batch",
        "preupload",
        "%c3%a9",
        "?",
        "&=;",
    ]
    lines = ['{"key": "header", "value": {"summary": "s"}}', '{"key": "file", "value": {"path": "../x", "content": "eA==", "encoding": "base64"}}']
    lines += [
        '{"key": "lfsFile", "value": {"path": "x", "oid": "zz", "size": -1}}',
        '{"key": 1}',
        "{",
        "[]",
        "null",
        "\\x00",
        '{"key": "deletedFile", "value": []}',
    ]
    for _ in range(2000):
        path = "/" + "/".join(draw.choices(pieces, k=draw.randint(0, 8)))
        if draw.random() < 0.5:
            path = draw.choice(["/api/models/ada/r/", "/ada/r/", "/xet/x/v1/", "/api/repos/"]) + draw.choice(pieces) + "/" + draw.choice(pieces)
        method = draw.choice(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
        body = None
        if method in ("POST", "PUT", "DELETE", "PATCH"):
            body = draw.choice([b"", draw.randbytes(50), "\n".join(draw.choices(lines, k=draw.randint(1, 4))).encode(), b"[" * 3000, b'{"a":' * 2000])
        headers = {"Range": draw.choice(["bytes=5-2", "bytes=-0", "bytes=9999999999999999999-", "x", "bytes=0-1,3-4"])} if draw.random() < 0.3 else {}
        token = draw.choice([WRITE_TOKEN, READ_TOKEN, None, "hf_unknown", "x" * 5000])
        status, _, answer = request(hub, method, path, body, token, **headers)
        assert status < 500, (method, path, body, status, answer)
    assert api(hub).whoami()["name"] == "ada"
    assert api(hub).repo_exists("ada/r")


@pytest.mark.parametrize(
    "line",
    [
        b'{"key": "file", "value": {"path": "../x", "content": "eA==", "encoding": "base64"}}',
        b'{"key": "file", "value": {"path": "x", "content": "no base64!", "encoding": "base64"}}',
        b'{"key": "lfsFile", "value": {"path": "x", "algo": "sha256", "oid": "' + b"0" * 64 + b'", "size": 5}}',
        b'{"key": "lfsFile", "value": {"path": "x", "algo": "sha256", "oid": "../../tokens", "size": 5}}',
        b'{"key": "other", "value": {}}',
        b"{",
        b"[" * 100_000,
        b'{"key": "header", "value": {"summary": "s", "parentCommit": 7}}',
    ],
)
def test_a_commit_that_is_none_changes_nothing(hub, repository, line):
    before = api(hub).model_info(repository).sha
    body = b'{"key": "header", "value": {"summary": "s"}}\n' + line
    status, _, _ = request(hub, "POST", f"/api/models/{repository}/commit/main", body)
    assert 400 <= status < 500
    assert api(hub).model_info(repository).sha == before


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("bytes=2-4", 206, b"234"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-3", 206, b"789"),
        ("bytes=5-99", 206, b"56789"),
        ("bytes=10-", 416, b""),
        ("bytes=4-2", 416, b""),
        ("items=1-2", 200, b"0123456789"),
    ],
)
def test_ranges(hub, repository, asked, status, expected):
    found, headers, body = request(hub, "GET", f"/{repository}/resolve/main/a/b.txt", Range=asked)
    assert (found, body) == (status, expected)
    if status == 206:
        assert headers["Content-Range"].endswith("/10")


def test_private_repositories_do_not_exist_for_strangers(hub, repository):
    for path in ("/api/models/ada/hidden", "/ada/hidden/resolve/main/.gitattributes", "/ada/hidden", "/api/models/ada/hidden/tree/main"):
        assert request(hub, "GET", path, token=None)[0] == 404
        assert request(hub, "GET", path, token=READ_TOKEN)[0] == 200
    assert b"ada/hidden" not in request(hub, "GET", "/", token=None)[2]


def test_an_address_is_good_for_what_it_was_signed_for_alone(hub, repository):
    content = b"some content"
    sha256 = hashlib.sha256(content).hexdigest()
    body = json.dumps({"operation": "upload", "transfers": ["basic"], "objects": [{"oid": sha256, "size": len(content)}]}).encode()
    assert request(hub, "POST", f"/{repository}.git/info/lfs/objects/batch", body, READ_TOKEN)[0] == 403
    answer = json.loads(request(hub, "POST", f"/{repository}.git/info/lfs/objects/batch", body)[2])
    href = answer["objects"][0]["actions"]["upload"]["href"].removeprefix(hub.address)
    other = href.replace(sha256, "0" * 64)
    for path in (other, href.replace("expires=", "expires=1"), href[:-1], href.split("?")[0]):
        assert request(hub, "PUT", path, content, None)[0] == 403
    assert request(hub, "PUT", href, content + b"x", None)[0] == 400
    assert request(hub, "PUT", href, b"Some content", None)[0] == 400
    assert request(hub, "PUT", href, content, None)[0] == 200
    again = json.loads(request(hub, "POST", f"/{repository}.git/info/lfs/objects/batch", body)[2])
    assert "actions" not in again["objects"][0]


def test_files_are_shown_without_scripts(hub, repository):
    api(hub).upload_file(path_or_fileobj=b"<script>alert(1)</script>", path_in_repo="x.html", repo_id=repository)
    headers = request(hub, "GET", f"/{repository}/resolve/main/x.html")[1]
    assert "sandbox" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_eight_clients_at_once_lose_nothing(hub):
    api(hub).create_repo("ada/busy")
    contents = {f"{client}/{number}.bin": random.Random(f"{client} {number}").randbytes(20_000) for client in range(8) for number in range(4)}
    failures = []

    def upload(client):
        own = [(name, content) for name, content in contents.items() if name.startswith(f"{client}/")]
        try:
            for name, content in own:
                api(hub).upload_file(path_or_fileobj=content, path_in_repo=name, repo_id="ada/busy")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=upload, args=(client,)) for client in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for name, content in contents.items():
        assert request(hub, "GET", f"/ada/busy/resolve/main/{name}")[2] == content
    assert len(api(hub).list_repo_commits("ada/busy")) == len(contents) + 1


def committed_files(server, name):
    """What the Hub holds on disk of a repository: paths with the hash that git says, each checked against its bytes."""
    git = ["git", "--git-dir", str(server.root / "repositories" / "models" / name / "git")]
    assert subprocess.run([*git, "fsck", "--strict"], capture_output=True, text=True, check=True).stdout.replace("dangling", "") is not None
    listed = subprocess.run([*git, "ls-tree", "-r", "--name-only", "main"], capture_output=True, text=True, check=True).stdout.split()
    files = {}
    for path in listed:
        text = subprocess.run([*git, "show", f"main:{path}"], capture_output=True, check=True).stdout
        if text.startswith(b"version https://git-lfs"):
            sha256 = text.split(b"sha256:")[1].split(b"\n")[0].decode()
            content = (server.root / "blobs" / sha256[:2] / sha256).read_bytes()
            assert hashlib.sha256(content).hexdigest() == sha256
            text = content
        files[path] = text
    return files


@pytest.mark.slow
def test_kill_9_during_fifty_uploads_loses_and_spoils_nothing(tmp_path):
    server, draw = HubServer(tmp_path / "hub").start(), random.Random(11)
    api(server).create_repo("ada/r")
    acknowledged, kills = {}, 0
    began = time.monotonic()
    api(server).create_commit("ada/r", [CommitOperationAdd("first.bin", random.Random(99).randbytes(300_000))], commit_message="first")
    undisturbed = time.monotonic() - began
    for number in range(50):
        content = random.Random(number).randbytes(300_000)
        done = threading.Event()

        def upload(name=f"{number}.bin", content=content, done=done):
            try:
                api(server).create_commit("ada/r", [CommitOperationAdd(name, content)], commit_message=name)
                acknowledged[name] = content
            except Exception:
                pass  # the server was killed; whether it is to blame is what the test looks at
            done.set()

        thread = threading.Thread(target=upload)
        thread.start()
        if not done.wait(draw.uniform(0.0, 1.6 * undisturbed)):
            server.kill()
            kills += 1
            server.start()
        thread.join()
        if number % 10 == 9:
            files = committed_files(server, "ada/r")
            assert all(files[name] == content for name, content in acknowledged.items())
    files = committed_files(server, "ada/r")
    assert set(acknowledged) <= set(files)
    assert files.pop("first.bin") == random.Random(99).randbytes(300_000)
    assert all(
        content == random.Random(int(name.removesuffix(".bin"))).randbytes(300_000) for name, content in files.items() if name.endswith(".bin")
    )
    assert kills >= 10
    assert len(acknowledged) >= 10
    assert not list((server.root / "blobs" / "incoming").iterdir())
    assert server.stop() == (0, "")


def test_a_full_disk_refuses_and_leaves_nothing(tmp_path):
    """The largest file that the process may write stands for the disk: writing beyond it fails in the same way, at any byte."""
    server = HubServer(tmp_path / "hub").start()
    api(server).create_repo("ada/r")
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    before = api(server).model_info("ada/r").sha
    content = random.Random(0).randbytes(300_000)
    sha256 = hashlib.sha256(content).hexdigest()
    body = json.dumps({"operation": "upload", "transfers": ["basic"], "objects": [{"oid": sha256, "size": len(content)}]}).encode()
    answer = json.loads(request(server, "POST", "/ada/r.git/info/lfs/objects/batch", body)[2])
    href = answer["objects"][0]["actions"]["upload"]["href"].removeprefix(server.address)
    status, _, message = request(server, "PUT", href, content, None)
    assert status == 507
    assert b"full" in message
    assert not list((server.root / "blobs" / "incoming").iterdir())
    assert api(server).model_info("ada/r").sha == before
    assert server.stop() == (0, "")


def run_command(*arguments):
    command = [sys.executable, "-m", "hflab", "hub", "serve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[3], check=False)


def test_mistakes_are_told_in_one_line(hub, tmp_path):
    (tmp_path / "bad").write_text("ada hf_secret_token\n")
    (tmp_path / "file").write_text("")
    for arguments, expected in [
        (["--root", hub.root, "--port", 0], "in use by another Hub"),
        (["--root", tmp_path / "new", "--port", hub.port], "cannot be listened on"),
        (["--root", tmp_path / "new", "--port", 99999], "cannot be listened on"),
        (["--root", tmp_path / "file" / "x"], "cannot be made"),
        (["--root", tmp_path / "new", "--port", 0, "--token-file", tmp_path / "bad"], "Line 1"),
        (["--root", tmp_path / "new", "--port", 0, "--token-file", tmp_path / "none"], "cannot be read"),
    ]:
        result = run_command(*arguments)
        assert result.returncode == 2, arguments
        assert expected in result.stderr
        assert result.stderr.count("\n") == 1
        assert "hf_secret_token" not in result.stderr + result.stdout


def test_the_first_start_makes_a_token_that_works_and_the_second_keeps_it(tmp_path):
    command = [sys.executable, "-m", "hflab", "hub", "serve", "--root", str(tmp_path / "hub"), "--port", "0"]
    for start in (1, 2):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
        lines = [process.stdout.readline() for _ in range(5)]
        address = lines[0].split(",")[0].rpartition(" ")[2]
        shown = [line.partition("HF_TOKEN=")[2].strip() for line in lines if "HF_TOKEN" in line]
        if start == 1:
            (token,) = shown
        assert bool(shown) == (start == 1)
        assert HfApi(endpoint=address, token=token).whoami()["auth"]["accessToken"]["role"] == "write"
        process.terminate()
        assert process.wait(timeout=30) == 0
        process.stdout.close()
    assert (tmp_path / "hub" / "tokens").stat().st_mode & 0o077 == 0


def test_an_emptied_hub_at_the_same_address_gets_everything_again(tmp_path):
    """A Xet client remembers what it has sent to an address, in a cache of its own."""
    content = random.Random(3).randbytes(300_000)
    server = HubServer(tmp_path / "hub").start()
    for _ in range(2):
        code = (
            "from huggingface_hub import HfApi; api = HfApi(); api.create_repo('ada/r');"
            f"api.upload_file(path_or_fileobj={str(tmp_path / 'x.bin')!r}, path_in_repo='x.bin', repo_id='ada/r')"
        )
        (tmp_path / "x.bin").write_bytes(content)
        subprocess.run([sys.executable, "-c", code], env=client_environment(server, tmp_path / "home"), check=True, capture_output=True)
        assert committed_files(server, "ada/r")["x.bin"] == content
        assert server.stop()[0] == 0
        shutil.rmtree(server.root)
        server = HubServer(server.root, server.port).start()
    server.kill()
