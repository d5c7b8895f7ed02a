"""Checkpoints: all that an interrupted run needs to go on exactly.

    checkpoints/step-00000400/          after 400 optimizer steps
    checkpoints/step-00000400-micro-3/  and 3 of the next step's forward and backward passes
        checkpoint.json        position, recipe, number of processes; written last but one, so its folder is whole
        process-0.pt …         per process: carried state, gradients in mid-step, sums not yet logged
        …                      Accelerate's own: model, optimizer, scaler, random number generators

A checkpoint is written into a `.partial` folder and renamed when complete: a kill at any moment leaves the one before it in force.
Checkpoints stay on this machine and hold pickles; a published model never does.
"""

import dataclasses
import json
import logging
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor

from ..errors import UserError
from ..recipe import Recipe, parse_recipe
from ..run_folder import write_atomically

# Keys that a resumed run may change: they decide how long it goes on and what it shows, not what a step computes.
RESUMABLE = {
    "training.num_steps",
    "training.num_epochs",
    "training.max_seconds",
    "training.log_every_steps",
    "training.gradient_norms_every_steps",
    "training.evaluate_every_steps",
    "training.checkpoint_every_steps",
    "training.keep_checkpoints",
    "training.early_stopping_patience",
}
logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)  # it warns of every tied weight that it rightly writes once
FREE_SECTIONS = {"evaluation", "publish", "tracking", "description"}


@dataclass
class Progress:
    """Where a run stands: the same on every process."""

    step: int = 0  # optimizer steps done
    micro_step: int = 0  # forward and backward passes done of the next one
    tokens: int = 0  # tokens trained on (labels, where a task predicts something else), over all processes
    seconds: float = 0.0  # of training, without evaluation and checkpoints
    best_watched: float | None = None  # of the figure that early stopping watches, the loss of most tasks; None: no evaluation yet
    evaluations_since_best: int = 0
    metrics_size: int = 0  # bytes of metrics.jsonl


@dataclass
class ProcessState:
    """What differs between processes: plain containers of tensors, so that it loads without unpickling code."""

    carried: list[Any] = field(default_factory=list)  # recurrent state of each accumulation slice
    gradients: list[Tensor | None] = field(default_factory=list)  # of a step in mid-cycle
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()))  # nats over this process's tokens since the last logged line
    loss_tokens: int = 0  # tokens behind `loss_sum`, over all processes
    gradient_norm_sum: Tensor = field(default_factory=lambda: torch.zeros(()))  # over the steps since that line
    steps_since_log: int = 0


def save_checkpoint(folder: Path, accelerator: Accelerator, recipe: Recipe, progress: Progress, state: ProcessState) -> Path:
    """Write a checkpoint below `folder` on all processes together and drop the oldest. Returns its path.

    Raises:
        UserError: the disk is full; the partial checkpoint is removed and the earlier ones stay.
    """
    name = f"step-{progress.step:08d}" + (f"-micro-{progress.micro_step}" if progress.micro_step else "")
    partial = folder / f"{name}.partial"
    try:
        accelerator.save_state(str(partial))
        torch.save(dataclasses.asdict(state), partial / f"process-{accelerator.process_index}.pt")
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _complete(partial, folder / name, accelerator, recipe, progress)
            _drop_oldest(folder, recipe.training.keep_checkpoints)
    except Exception as error:  # the writers below raise OSError, RuntimeError or their own types for the same full disk
        needed = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())
        shutil.rmtree(partial, ignore_errors=True)
        raise_if_disk_full(folder, needed, error)
        raise
    accelerator.wait_for_everyone()
    return folder / name


def raise_if_disk_full(folder: Path, needed: int, error: Exception) -> None:
    """Raise a `UserError` in place of `error` when the disk of `folder` has no more than `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if free <= needed + 2**20 or getattr(error, "errno", None) == 28:
        raise UserError(
            f"The disk of {folder} is full ({free / 2**20:,.0f} MiB free); nothing saved before is lost. "
            "Free some space, or lower training.keep_checkpoints, then continue with --resume."
        ) from None


def _complete(partial: Path, final: Path, accelerator: Accelerator, recipe: Recipe, progress: Progress) -> None:
    facts = {"progress": dataclasses.asdict(progress), "recipe": recipe.to_dict(), "num_processes": accelerator.num_processes}
    write_atomically(partial / "checkpoint.json", json.dumps(facts, indent=2))
    for file in partial.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)


def _drop_oldest(folder: Path, keep: int) -> None:
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints below `folder`, oldest first."""
    pattern = re.compile(r"step-(\d+)(?:-micro-(\d+))?")
    found = [(match, path) for path in folder.glob("step-*") if (match := pattern.fullmatch(path.name))]
    return [path for _, path in sorted(found, key=lambda item: (int(item[0][1]), int(item[0][2] or 0)))]


def load_checkpoint(folder: Path, accelerator: Accelerator, recipe: Recipe) -> tuple[Progress, ProcessState] | None:
    """Restore the newest checkpoint below `folder` into what `accelerator` prepared; None when there is none yet.

    Raises:
        UserError: the checkpoint belongs to another recipe or another number of processes.
    """
    checkpoints = list_checkpoints(folder)
    if not checkpoints:
        return None
    newest = checkpoints[-1]
    facts = json.loads((newest / "checkpoint.json").read_text(encoding="utf-8"))
    _check_same_recipe(newest, facts["recipe"], recipe.to_dict())
    if facts["num_processes"] != accelerator.num_processes:
        raise UserError(
            f"{newest} was written by {facts['num_processes']} processes and this is a start with {accelerator.num_processes}; "
            "resume with the same number, so that the run continues exactly."
        )
    accelerator.load_state(str(newest))
    # by way of the CPU: torch cannot restore to "cpu:0", which is Accelerate's name for the device of one of several processes
    state = torch.load(newest / f"process-{accelerator.process_index}.pt", map_location="cpu", weights_only=True)
    return Progress(**facts["progress"]), ProcessState(**send_to_device(state, accelerator.device))


def _check_same_recipe(checkpoint: Path, saved: dict[str, Any], given: dict[str, Any]) -> None:
    before, now = _flatten(parse_recipe(saved).to_dict()), _flatten(given)  # keys that are newer than the checkpoint have their defaults
    changed = [
        f"{key} ({before.get(key)} in the checkpoint, {now.get(key)} now)"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key not in RESUMABLE and key.split(".")[0] not in FREE_SECTIONS
    ]
    if changed:
        raise UserError(
            f"{checkpoint} is of another recipe: {'; '.join(changed)}. Resume with the recipe as it was, "
            "or start a new run with model.pretrained set to this run's model."
        )


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value})
    return flat
