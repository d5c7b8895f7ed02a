"""One training of one model on one probe task, from its description to its figures.

    outcome = train_probe(ProbeRun("parity", 16, ModelChoice("lstm", 10_000), learning_rate=3e-3, seed=1))
    outcome.figures[1], outcome.figures[16]                 # on rows as long as in training, and 16 times as long

This is not the loop of recipes (`training/loop.py`). That one takes data that were prepared and tokenised, and leaves a run folder with checkpoints
and a model to publish; here rows are made in the step that reads them, inputs may be numbers, a study has hundreds of trainings of seconds, and
nothing is kept of one but its figures. A training that was broken off starts again from its seed and ends the same.

Adam (Kingma and Ba 2015) at a constant learning rate, float32, on the CPU. Everything is a function of the description: the rows of step s are drawn
with (seed, TRAINING, s).

B rows, L tokens of a row, C kinds of answers.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..evaluation.model_properties import evaluation_mode
from .probe_models import ModelChoice, build_probe_model
from .probe_tasks import probe_named
from .probes import IGNORED, Probe, ProbeBatch

MULTIPLES = (1, 2, 4, 8, 16)  # of the length in training, at which a model is tested
NUM_VALIDATION_ROWS, NUM_TEST_ROWS = 512, 512
MOST_TOKENS_AT_A_TIME = 16_384  # of a test batch
NUM_VALIDATIONS = 20  # while a model trains
MOST_GRADIENT_NORM = 1.0  # with the trick "clipping"
TRAINING, VALIDATION, TEST = range(3)  # streams of random rows that share nothing
StoppedBy = Literal["solved", "steps", "seconds", "divergence"]


@dataclass(frozen=True)
class ProbeRun:
    """All that decides a training."""

    task: str
    length: int
    choice: ModelChoice
    learning_rate: float
    seed: int
    """Of weights and rows, from 0."""
    num_items: int | None = None
    """See `probe_named`."""
    num_steps: int = 2000
    """Optimizer steps at most; fewer where the task is solved before."""
    batch_size: int = 32
    max_seconds: float | None = None
    """Of training and validation, at most; what comes out then depends on the machine."""
    is_tested: bool = True
    """Whether it is tested on longer rows; a search for a learning rate is not."""


@dataclass(frozen=True)
class ProbeOutcome:
    """What came of a training."""

    num_parameters: int
    hidden_size: int
    num_steps: int
    """Done."""
    seconds: float
    """Of training and validation."""
    stopped_by: StoppedBy
    validation: float
    """The task's figure on validation rows at the end."""
    figures: dict[int, float] = field(default_factory=dict)
    """On test rows, by the multiple of the length in training; empty where it was not tested."""


def train_probe(run: ProbeRun) -> ProbeOutcome:
    """Train until the task is solved on validation rows (`Probe.ends_training`) or the budget is used up, and test.

    Raises:
        UserError: there is no such task, cell or trick, or no model of the wanted size.
    """
    probe = probe_named(run.task, run.num_items)
    model = build_probe_model(probe, run.choice, seed=run.seed)
    with _one_thread():
        started = time.perf_counter()
        num_steps, stopped_by = _train(model, probe, run, started)
        validation = _figure_on(model, probe, run, VALIDATION, run.length, NUM_VALIDATION_ROWS)
        seconds = time.perf_counter() - started
        tested = MULTIPLES if run.is_tested else ()
        figures = {multiple: _figure_on(model, probe, run, TEST, multiple * run.length, NUM_TEST_ROWS) for multiple in tested}
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return ProbeOutcome(parameters, model.model.config.hidden_size, num_steps, seconds, stopped_by, validation, figures)


def _train(model: nn.Module, probe: Probe, run: ProbeRun, started: float) -> tuple[int, StoppedBy]:
    """Take steps until one of the reasons to stop; returns the number of steps and the reason."""
    optimizer = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], lr=run.learning_rate)
    validate_every = max(1, run.num_steps // NUM_VALIDATIONS)
    model.train()
    for step in range(run.num_steps):
        loss = probe_loss(model, _rows(probe, run, TRAINING, step, run.length, run.batch_size))
        if not torch.isfinite(loss):
            return step, "divergence"
        loss.backward()
        if "clipping" in run.choice.tricks:
            nn.utils.clip_grad_norm_(model.parameters(), MOST_GRADIENT_NORM)
        optimizer.step()
        optimizer.zero_grad()
        is_due = (step + 1) % validate_every == 0
        if is_due and probe.ends_training(_figure_on(model, probe, run, VALIDATION, run.length, NUM_VALIDATION_ROWS)):
            return step + 1, "solved"
        if run.max_seconds is not None and time.perf_counter() - started > run.max_seconds:
            return step + 1, "seconds"
    return run.num_steps, "steps"


def probe_loss(model: nn.Module, batch: ProbeBatch) -> Tensor:
    """Mean cross-entropy in nats of all positions that have a target, or mean squared error where numbers are answered."""
    answers = model(torch.from_numpy(batch.inputs))
    targets = torch.from_numpy(batch.targets)
    if targets.is_floating_point():
        scored = torch.from_numpy(batch.scored)
        return F.mse_loss(answers[..., 0][scored], targets[scored])
    return F.cross_entropy(answers.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def score(answers: Tensor, batch: ProbeBatch) -> np.ndarray:
    """Of each scored position whether the answer (B, L, C) is right, as 1.0 or 0.0, or the squared error of (B, L, 1)."""
    given = torch.nan_to_num(answers).numpy()[batch.scored]  # of a training that diverged an answer may be no number: it counts as 0
    expected = batch.targets[batch.scored]
    if batch.targets.dtype.kind == "f":
        return (given[:, 0].astype(np.float64) - expected) ** 2
    return (given.argmax(axis=-1) == expected).astype(np.float64)


def _figure_on(model: nn.Module, probe: Probe, run: ProbeRun, stream: int, length: int, num_rows: int) -> float:
    """The task's figure on rows that are the same for every model of a task and seed."""
    rows = _rows(probe, run, stream, length, length, num_rows)
    at_a_time = max(1, MOST_TOKENS_AT_A_TIME // rows.inputs.shape[1])
    scores = []
    with evaluation_mode(model):
        for start in range(0, num_rows, at_a_time):
            part = ProbeBatch(*(array[start : start + at_a_time] for array in rows))
            scores.append(score(model(torch.from_numpy(part.inputs)), part))
    return float(np.concatenate(scores).mean())


def _rows(probe: Probe, run: ProbeRun, stream: int, number: int, length: int, num_rows: int) -> ProbeBatch:
    random = np.random.default_rng([run.seed, stream, number])
    return probe.batch(random, length=length, batch_size=num_rows)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Matrices this small are multiplied faster by one thread, and to the same bits however many there are elsewhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
