"""Text written on the spot, and data sections over it whose cache is the test's own."""

import pytest

from hflab.recipe import DataSection


@pytest.fixture
def write(tmp_path):
    """Write `content` (text or bytes) to a file of the test's folder `texts`; returns its path as a string."""

    def write(name, content):
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return str(path)

    return write


@pytest.fixture
def own_text(write, tmp_path):
    """A data section over text written on the spot."""

    def own_text(content, name="text.txt", **keys):
        return DataSection(source="text", path=write(name, content), cache_dir=str(tmp_path / "cache"), **keys)

    return own_text
