"""A real Hub in a process of its own, on a free port of the loopback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

WRITE_TOKEN, READ_TOKEN = "hf_writes", "hf_reads"
START_SECONDS = 60


class HubServer:
    """A process that serves `root`; it can be killed and started again on the same port."""

    def __init__(self, root, port=0):
        self.root, self.port, self.process = root, port, None
        root.mkdir(parents=True, exist_ok=True)
        (root / "tokens").write_text(f"ada write {WRITE_TOKEN}\nbob read {READ_TOKEN}\n")

    def start(self):
        command = [sys.executable, "-m", "hflab", "hub", "serve", "--root", str(self.root), "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
        first = self.process.stdout.readline()
        assert first.startswith("Local Hub on http://127.0.0.1:"), first + self.process.stderr.read()
        self.port = int(first.split(",")[0].rpartition(":")[2])
        return self

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.close_pipes()

    def close_pipes(self):
        self.process.stdout.close()
        self.process.stderr.close()

    def stop(self):
        """End it as Ctrl-C does; returns exit status and what it wrote to standard error."""
        self.process.send_signal(signal.SIGINT)
        errors = self.process.stderr.read()
        status = self.process.wait(timeout=START_SECONDS)
        self.close_pipes()
        return status, errors


@pytest.fixture(scope="package", autouse=True)
def loopback_alone():
    """All tests run offline; the clients here may go to the loopback, which is all that their addresses name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A running Hub, which must end cleanly and without a traceback."""
    server = HubServer(tmp_path_factory.mktemp("hub")).start()
    yield server
    status, errors = server.stop()
    assert (status, errors) == (0, "")


def client_environment(server, home, **changes):
    """Environment of a process that uses `server` with nothing but the stock settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {"HF_ENDPOINT": server.address, "HF_HOME": str(home), "HF_TOKEN": WRITE_TOKEN, "HF_READ_TOKEN": READ_TOKEN}
    return kept | settings | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"} | changes


def wait_until(condition, seconds=START_SECONDS):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
