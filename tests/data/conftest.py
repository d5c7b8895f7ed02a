"""Text and sound written on the spot, and data sections over it whose cache is the test's own."""

import json

import numpy as np
import pytest

from hflab.recipe import DataSection

SPOKEN_RATE = 8000  # of the sounds written here, in Hz


def tone_of(number, seconds):
    """A tone by which a clip is known, (N,) float32."""
    return (0.4 * np.sin(2 * np.pi * (150 + 37 * number) * np.arange(round(seconds * SPOKEN_RATE)) / SPOKEN_RATE)).astype(np.float32)


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


@pytest.fixture
def own_speech(tmp_path):
    """A data section over tones and a table; of each row `seconds` (default: 0.5) decide the sound and the rest stands in the table."""
    soundfile = pytest.importorskip("soundfile")

    def own_speech(rows, name="speech", **keys):
        folder = tmp_path / "texts" / name
        folder.mkdir(parents=True, exist_ok=True)
        table = []
        for number, row in enumerate(rows):
            table.append({"audio": f"clip{number}.wav", **{key: value for key, value in row.items() if key != "seconds"}})
            soundfile.write(folder / table[-1]["audio"], tone_of(number, row.get("seconds", 0.5)), SPOKEN_RATE)
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
        return DataSection(source="speech", path=str(folder), cache_dir=str(tmp_path / "cache"), **keys)

    return own_speech
