"""Settings for all tests: `--run-slow`, no network, NaN in uninitialised memory, and few threads, so that parallel workers do not fight."""

import os
import socket

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")


def pytest_addoption(parser):
    parser.addoption("--run-slow", action="store_true", help="run tests marked slow too")


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: item.path.name != "test_readme.py")  # it has tests of minutes: no worker is to wait for them at the end
    if config.getoption("--run-slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow; give --run-slow"))


@pytest.fixture(autouse=True, scope="session")
def poisoned_memory():
    """Memory that `torch.empty` hands out is NaN: a weight that nobody initialised cannot hide."""
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_num_threads(1)  # these models are small: threads would only wait for each other


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A connection that leaves this machine fails the test that makes it."""
    connect = socket.socket.connect

    def guarded(self, address):
        if isinstance(address, tuple) and not str(address[0]).startswith(LOOPBACK):
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Token stores and dynamic modules of tests stay out of the user's cache, and are shared within a session."""
    base = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("HFLAB_CACHE", str(base / "hflab-cache"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(base / "modules"))
