"""A training session: the living objects of one process, and how they come about. The loop in `loop.py` works on a session."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, broadcast_object_list, set_seed
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from ..errors import UserError, check_choice
from ..recipe import Recipe
from ..run_folder import RunFolder
from .checkpoints import ProcessState, Progress
from .forgetting import warn_of_forgetting
from .freezing import GradualUnfreezing
from .interruption import Interruption
from .optimization import build_averaged_model, build_optimizer
from .reporting import Reporter
from .task import Batches, Task
from .tasks import TASKS

TRACKERS = ("trackio", "tensorboard")
# Where nothing scales or shards, Accelerate's optimizer only passes a step on, after it has searched twice for a package; so it is left out.
STEPS_AS_TORCH = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


@dataclass
class Session:
    """The living objects of one training process."""

    recipe: Recipe
    run: RunFolder
    accelerator: Accelerator
    task: Task
    model: nn.Module  # as Accelerate prepared it
    optimizer: Any  # torch's, or Accelerate's wrapper where that adds something to a step
    averaged: AveragedModel | None
    batches: Batches
    reporter: Reporter
    interruption: Interruption
    unfreezing: GradualUnfreezing | None = None
    progress: Progress = field(default_factory=Progress)
    state: ProcessState = field(default_factory=ProcessState)

    @property
    def bare_model(self) -> nn.Module:
        """The model without DDP's wrapper; sharded models stay wrapped, since they compute only as a whole."""
        return self.model.module if isinstance(self.model, DistributedDataParallel) else self.model

    @property
    def evaluated_model(self) -> nn.Module:
        """The averaged weights once averaging has begun, the trained ones before."""
        return self.averaged.module if self.averaged is not None and self.averaged.n_averaged > 0 else self.bare_model

    @property
    def best_weights(self) -> Path:
        """Where early stopping keeps the weights of the best evaluation."""
        return self.run.checkpoints / "best.safetensors"

    def budget_used(self) -> float:
        """Share of the budget that is used, 0 to 1: the largest of steps, epochs and seconds."""
        training, progress = self.recipe.training, self.progress
        shares = [
            progress.step / training.num_steps if training.num_steps else 0.0,
            progress.step / self.batches.steps_per_epoch / training.num_epochs if training.num_epochs else 0.0,
            progress.seconds / training.max_seconds if training.max_seconds else 0.0,
        ]
        return min(1.0, max(shares))

    def lanes(self, micro_step: int) -> slice:
        """The sequences of the step that this process reads in pass `micro_step`: passes outside, processes inside."""
        passes = self.recipe.training.gradient_accumulation_steps
        share = self.recipe.training.batch_size // (passes * self.accelerator.num_processes)
        start = (micro_step * self.accelerator.num_processes + self.accelerator.process_index) * share
        return slice(start, start + share)

    def agreed_to_stop(self) -> bool:
        """Whether any process was asked to stop: all of them must stop at the same pass."""
        if self.accelerator.num_processes == 1:
            return bool(self.interruption)
        asked = torch.tensor([float(bool(self.interruption))], device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, reduction="sum").item() > 0)

    def agree_on_seconds(self) -> None:
        """Take the first process's clock, so that a budget in seconds ends at the same step everywhere."""
        if self.recipe.training.max_seconds and self.accelerator.num_processes > 1:
            self.progress.seconds = broadcast_object_list([self.progress.seconds])[0]


def build_accelerator(recipe: Recipe, folder: Path) -> Accelerator:
    """Accelerate's view of this process; trackers that write files write below `folder`.

    Raises:
        UserError: a tracker that does not exist or is not installed, or a batch that the processes cannot share.
    """
    training = recipe.training
    for tracker in recipe.tracking.trackers:
        check_choice("A value of tracking.trackers", tracker, TRACKERS)
    if PartialState().num_processes == 1:
        # Accelerate keeps its settings for the life of the process; a second run in a notebook may want others
        AcceleratorState._reset_state(reset_partial_state=True)
    try:
        accelerator = Accelerator(
            # "no" leaves the choice to the launcher, and to its default
            mixed_precision=None if training.mixed_precision == "no" else training.mixed_precision,
            cpu=training.device == "cpu",
            log_with=recipe.tracking.trackers or None,
            project_dir=str(folder),
        )
    except (ImportError, ValueError) as error:
        raise UserError(f"Accelerate refused the settings: {error} Trackers need: pip install 'hflab[tracking]'.") from None
    if training.gradient_norms_every_steps and accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise UserError(
            "training.gradient_norms_every_steps is set, but each process of FSDP and DeepSpeed has only shares of the gradients; leave it out, or "
            "train without sharding."
        )
    shares = training.gradient_accumulation_steps * accelerator.num_processes
    if training.batch_size % shares:
        raise UserError(
            f"training.batch_size is {training.batch_size}; {accelerator.num_processes} processes with "
            f"{training.gradient_accumulation_steps} accumulation steps need a multiple of {shares}."
        )
    return accelerator


def prepare_task(recipe: Recipe, accelerator: Accelerator) -> Task:
    """The recipe's task with its data; the first process tokenises, the others read what it wrote.

    Raises:
        UserError: whatever the data raise; or there is no validation split.
    """
    task = TASKS[recipe.task](recipe)
    with accelerator.main_process_first():
        task.prepare()
    if "validation" not in task.prepared.splits:
        raise UserError("There is no validation split, which the figures of a run are of; set data.validation_fraction above 0.")
    return task


def open_session(recipe: Recipe, run: RunFolder, accelerator: Accelerator, task: Task, interruption: Interruption) -> Session:
    """Build model, optimizer and batches for a fresh start; `load_checkpoint` may then move them on."""
    set_seed(recipe.training.seed)
    model = task.build_model()
    if accelerator.is_main_process:
        warn_of_forgetting(model, recipe)
    unfreezing = None
    if recipe.training.unfreeze_every_steps is not None:
        several = accelerator.num_processes > 1
        unfreezing = GradualUnfreezing(model, recipe.training.unfreeze_every_steps, several_processes=several)
    batches = task.batches()
    averaged = build_averaged_model(model, recipe.training)
    drops_layers = bool(getattr(model.config, "layerdrop", 0))
    if getattr(model, "leaves_parameters_unused", recipe.model.pretrained is not None or drops_layers):  # of a foreign model nobody knows; for DDP
        accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
    prepared, optimizer = accelerator.prepare(model, build_optimizer(model, recipe.training))
    if accelerator.scaler is None and accelerator.distributed_type in STEPS_AS_TORCH:
        optimizer = optimizer.optimizer
    if averaged is not None:
        averaged.to(accelerator.device)
        accelerator.register_for_checkpointing(averaged)
    session = Session(
        recipe=recipe,
        run=run,
        accelerator=accelerator,
        task=task,
        model=prepared,
        optimizer=optimizer,
        averaged=averaged,
        batches=batches,
        reporter=Reporter(enabled=accelerator.is_main_process),
        interruption=interruption,
        unfreezing=unfreezing,
    )
    reset_sums(session)
    # processes share the start, and drop out different units from here on
    set_seed((recipe.training.seed + 1 + accelerator.process_index) % 2**32)
    return session


def reset_sums(session: Session) -> None:
    """Begin the sums behind the next logged line."""
    state, device = session.state, session.accelerator.device
    state.loss_sum, state.gradient_norm_sum = torch.zeros((), device=device), torch.zeros((), device=device)
    state.loss_tokens = state.steps_since_log = 0
    state.carried = state.carried or [None] * session.recipe.training.gradient_accumulation_steps
