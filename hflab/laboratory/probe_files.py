"""The finished trainings of a folder, a JSON file each: what is there need not be trained again. Knows nothing about training."""

import dataclasses
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from ..errors import UserError
from .probe_training import ProbeOutcome, ProbeRun

FORMAT = 1  # raise it when the same description would be trained otherwise


class ProbeFiles:
    """Outcomes of trainings in a folder, each named for all that decides it."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, made if need be. Raises `UserError` if it cannot be written into."""
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UserError(f"Nothing can be written into {folder}: {error.strerror}; choose another folder with --output.") from None

    def file(self, run: ProbeRun) -> Path:
        """Where the outcome of `run` is, or will be."""
        key = hashlib.sha256(json.dumps([FORMAT, dataclasses.asdict(run)], sort_keys=True).encode()).hexdigest()[:12]
        return self.folder / f"{run.task}-{run.length}-{run.choice.cell}-{key}.json"

    def read(self, run: ProbeRun) -> ProbeOutcome | None:
        """The outcome of `run`, or None where it has not been trained to its end."""
        try:
            saved: dict[str, Any] = json.loads(self.file(run).read_text(encoding="utf-8"))["outcome"]
            return ProbeOutcome(**{**saved, "figures": {int(multiple): figure for multiple, figure in saved["figures"].items()}})
        except (OSError, ValueError, KeyError, TypeError):  # not there, or cut short by a disk that failed
            return None

    def outcome(self, run: ProbeRun) -> ProbeOutcome:
        """The outcome of `run`, which was there. Raises `UserError` if it has been removed since."""
        found = self.read(run)
        if found is None:
            raise UserError(f"{self.file(run)} was removed while the study ran; start the same command again.")
        return found

    def write(self, run: ProbeRun, outcome: ProbeOutcome) -> None:
        """Keep the outcome of `run`; its file is whole or not there. Raises `UserError` if it cannot be written."""
        path = self.file(run)
        partial = path.with_suffix(".partial")
        try:
            partial.write_text(json.dumps({"run": dataclasses.asdict(run), "outcome": dataclasses.asdict(outcome)}, indent=1), encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}; make room, and the same command goes on.") from None
