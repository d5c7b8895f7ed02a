"""The run folder: the baton that every stage after training reads.

    runs/NAME/
      recipe.yaml      the recipe, fully resolved: training it again reproduces the run
      run.json         facts, and the run's status: running, interrupted, failed or finished
      metrics.jsonl    a line per logged step and per evaluation
      checkpoints/     see `checkpoints.py`
      model/           a Hub repository ready to publish

One process at a time may write a run; a lock that the system releases when the process ends, however it ends, sees to that.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .errors import UserError, nearest
from .recipe import Recipe, load_recipe


class RunFolder:
    """Paths and files of one run. Nothing is created by the constructor; see `create` and `open_existing`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_file = path / "recipe.yaml"
        self.facts_file = path / "run.json"
        self.metrics_file = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"

    @classmethod
    def create(cls, parent: Path, name: str | None, recipe_name: str) -> "RunFolder":
        """Make a new folder: `parent/name`, or the first free of RECIPE, RECIPE-2, RECIPE-3 … when no name is given.

        Raises:
            UserError: the named folder exists and is not empty, or the folder cannot be written.
        """
        stem = name or Path(recipe_name).stem
        for number in range(1, 10_000):
            path = parent / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir(parents=True, exist_ok=name is not None)
            except FileExistsError:
                if name is None and path.is_dir():
                    continue
                raise UserError(f"{path} exists and is not a folder; give another --run NAME.") from None
            except OSError as error:
                raise UserError(f"The run folder {path} cannot be made: {error.strerror}; give another --output FOLDER.") from None
            if name is not None and any(path.iterdir()):
                raise UserError(f"The run folder {path} exists; continue it with --resume {path}, or give another --run NAME.")
            return cls(path)
        raise UserError(f"{parent} holds {stem} 9,999 times already; give a --run NAME.")

    @classmethod
    def open_existing(cls, path: Path) -> "RunFolder":
        """Open the folder of an earlier run. Raises `UserError` when `path` is none."""
        if not (path / "recipe.yaml").is_file():
            siblings = [str(found.parent) for found in sorted(path.parent.glob("*/recipe.yaml"))] if path.parent.is_dir() else []
            raise UserError(
                f"{path} is not a run folder (it has no recipe.yaml); give the folder that `hflab train` named.{nearest(str(path), siblings)}"
            )
        return cls(path)

    def remove_if_empty(self) -> None:
        """Remove the folder if nothing of a run is in it, so that its name is free again."""
        if [path.name for path in self.path.iterdir()] == [".lock"]:
            (self.path / ".lock").unlink()
            self.path.rmdir()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process. Raises `UserError` when another process holds it."""
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"The run {self.path} is in use by another process; wait for it or give another --run NAME.") from None
        except OSError as error:
            raise UserError(f"The run folder {self.path} cannot be written: {error.strerror}; copy it to where you may write.") from None
        try:
            yield
        finally:
            lock.release()

    def read_recipe(self, overrides: dict[str, Any] | None = None) -> Recipe:
        """The run's recipe with `overrides` applied."""
        return load_recipe(self.recipe_file, overrides)

    def read_facts(self) -> dict[str, Any]:
        """The content of run.json; empty when the run ended before its first facts."""
        return json.loads(self.facts_file.read_text(encoding="utf-8")) if self.facts_file.is_file() else {}

    def update_facts(self, **facts: Any) -> None:
        """Replace the given top-level entries of run.json, atomically."""
        text = json.dumps({**self.read_facts(), **facts}, indent=2, ensure_ascii=False)
        write_atomically(self.facts_file, text + "\n")

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl; a kill may have left half of a last one."""
        if not self.metrics_file.is_file():
            return []
        whole, _, _ = self.metrics_file.read_text(encoding="utf-8").rpartition("\n")
        return [json.loads(line) for line in whole.split("\n") if line]

    def metrics_size(self) -> int:
        """Bytes of metrics.jsonl, which a checkpoint remembers."""
        return self.metrics_file.stat().st_size if self.metrics_file.is_file() else 0

    def truncate_metrics(self, size: int) -> None:
        """Cut metrics.jsonl back to `size` bytes: lines after the checkpoint will be written again."""
        if self.metrics_file.is_file():
            os.truncate(self.metrics_file, size)


def write_atomically(path: Path, text: str) -> None:
    """Write UTF-8 `text` so that `path` holds either its old or its new content, whatever happens."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
