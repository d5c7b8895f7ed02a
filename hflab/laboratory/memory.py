"""A study of memory: tasks x lengths x models, a learning rate sought for each, then several seeds; and what it found.

    found = study_memory(["parity", "copying"], MemoryOptions(lengths=(10, 50)), Path("memory"), say=print)
    for row in found.rows: ...

Each finished training is a file in `runs/` of the folder, named for all that decides it: the same study goes on where it was, and studies that share
trainings share them. Knows nothing about how one is done (`probe_training.py`) and how it is reported (`memory_report.py`).
"""

import os
import signal
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path

from ..errors import UserError
from .probe_files import ProbeFiles
from .probe_models import DEFAULT_TRICKS, MODELS, ModelChoice, build_probe_model
from .probe_tasks import WITH_ITEMS, probe_named
from .probe_training import ProbeOutcome, ProbeRun, train_probe

SEARCH_SEED = 0  # seeds of the study count from 1
SEARCH_SHARE = 0.5  # of the steps, that each learning rate gets in the search
LEARNING_RATES = (1e-3, 3e-3, 1e-2)
ENDS = {"solved": "solved", "steps": "not solved", "seconds": "out of time", "divergence": "diverged"}  # what is said of each reason to stop


@dataclass(frozen=True)
class MemoryOptions:
    """What is studied, and at what cost."""

    cells: tuple[str, ...] = MODELS
    """Names of models: rnn, nvsi, gru, lstm, mini_transformer."""
    lengths: tuple[int, ...] = (16,)
    """Lengths T in training, each at least 1 (adding: 2)."""
    num_parameters: int = 10_000
    """Of each model, met within 5 %."""
    seeds: int = 3
    """Trainings of each model, at least 1."""
    num_steps: int = 2000
    """Optimizer steps of a training at most, at least 2; it ends when the task is solved."""
    max_seconds: float | None = None
    """Of a training at most, above 0; None: no limit. With a limit figures depend on the machine."""
    learning_rates: tuple[float, ...] = LEARNING_RATES
    """Tried for each model and task for half of the steps; above 0. A single one is taken without a search."""
    tricks: tuple[str, ...] = DEFAULT_TRICKS
    """Of orthogonal, clipping, forget_bias, layer_norm; see `probe_models.TRICKS`."""
    num_items: int | None = None
    """Things to remember in copying, associative_recall and selective_copying, 1 to 26; None: as many as the source has."""
    batch_size: int = 32
    """Rows of a step."""
    processes: int = 1
    """Trainings at a time, each on one core."""


@dataclass(frozen=True)
class MemoryRow:
    """What one model did on one task."""

    task: str
    length: int
    cell: str
    num_parameters: int
    hidden_size: int
    learning_rate: float
    figures: dict[int, list[float]]
    """Of every seed, by the multiple of the length in training."""
    num_solved: int
    """Seeds with a figure on test rows of the trained length from which on the task counts as solved."""
    num_steps: list[int]
    """Of every seed."""
    seconds: float
    """Of all seeds together."""
    search_seconds: float
    """That the learning rate cost before."""

    def mean(self, multiple: int = 1) -> float:
        """Of the seeds' figures."""
        return statistics.fmean(self.figures[multiple])

    def spread(self, multiple: int = 1) -> float:
        """Standard deviation over the seeds, of a sample; 0 where there is one."""
        return statistics.stdev(self.figures[multiple]) if len(self.figures[multiple]) > 1 else 0.0


@dataclass(frozen=True)
class MemoryStudy:
    """What was found."""

    options: MemoryOptions
    rows: list[MemoryRow]
    """By task, length and model, in the order that was asked for."""


def study_memory(tasks: Sequence[str], options: MemoryOptions, folder: Path, *, say: Callable[[str], None] | None = None) -> MemoryStudy:
    """Train and test what has not been trained in `folder` yet.

    Args:
        tasks: names of PROBES, at least one.
        options: the rest of the study.
        folder: made if need be.
        say: is told of each finished training in a line.

    Raises:
        UserError: a name that does not exist, a number out of range, no model of the wanted size, or a folder that cannot be written.
        KeyboardInterrupt: stopped; its text says how to go on.
    """
    check_study(tasks, options)
    files = ProbeFiles(folder / "runs")
    tell = say or (lambda line: None)
    places = list(dict.fromkeys((task, length, cell) for task in tasks for length in options.lengths for cell in options.cells))
    searches = {place: _search_runs(*place, options) for place in places}
    try:
        _train_all([run for runs in searches.values() for run in runs], files, options.processes, tell)
        rates = {place: _best_rate(runs, files) for place, runs in searches.items()}
        trainings = {place: _seed_runs(*place, rates[place] or options.learning_rates[0], options) for place in places}
        _train_all([run for runs in trainings.values() for run in runs], files, options.processes, tell)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; finished trainings are kept in {files.folder}, and the same command goes on from there") from None
    return MemoryStudy(options, [_row(place, trainings[place], searches[place], files) for place in places])


def check_study(tasks: Sequence[str], options: MemoryOptions) -> None:
    """Find every mistake before any work. Raises `UserError`."""
    for what, values in (("task", tasks), ("cell", options.cells), ("length", options.lengths), ("learning rate", options.learning_rates)):
        if not values:
            raise UserError(f"No {what} was given; give at least one.")
    for name, least in (("num_parameters", 1), ("seeds", 1), ("num_steps", 2), ("batch_size", 1), ("processes", 1)):
        if getattr(options, name) < least:
            raise UserError(f"{name} is {getattr(options, name)}, but must be at least {least}.")
    if options.max_seconds is not None and not options.max_seconds > 0:
        raise UserError(f"max_seconds is {options.max_seconds}, but must be above 0; leave it out for no limit.")
    for rate in options.learning_rates:
        if not 0 < rate < float("inf"):
            raise UserError(f"A learning rate is {rate}, but must be above 0; give one such as 0.003.")
    for task in tasks:
        probe = probe_named(task, options.num_items)
        for length in options.lengths:
            if length < probe.shortest:
                raise UserError(f"The length is {length}, but {task} needs at least {probe.shortest}; give --length 16.")
        for cell in options.cells:
            build_probe_model(probe, _choice(cell, options), seed=0)


def _choice(cell: str, options: MemoryOptions) -> ModelChoice:
    return ModelChoice(cell, options.num_parameters, tuple(sorted(set(options.tricks))))


def _search_runs(task: str, length: int, cell: str, options: MemoryOptions) -> list[ProbeRun]:
    """A training for each learning rate; none where there is nothing to choose."""
    if len(options.learning_rates) == 1:
        return []
    shared = replace(_first_run(task, length, cell, options), num_steps=int(SEARCH_SHARE * options.num_steps), is_tested=False)
    return [replace(shared, learning_rate=rate) for rate in options.learning_rates]


def _seed_runs(task: str, length: int, cell: str, rate: float, options: MemoryOptions) -> list[ProbeRun]:
    shared = replace(_first_run(task, length, cell, options), learning_rate=rate)
    return [replace(shared, seed=SEARCH_SEED + seed) for seed in range(1, options.seeds + 1)]


def _first_run(task: str, length: int, cell: str, options: MemoryOptions) -> ProbeRun:
    return ProbeRun(
        task,
        length,
        _choice(cell, options),
        learning_rate=options.learning_rates[0],
        seed=SEARCH_SEED,
        num_items=options.num_items if task in WITH_ITEMS else None,
        num_steps=options.num_steps,
        batch_size=options.batch_size,
        max_seconds=options.max_seconds,
    )


def _best_rate(runs: list[ProbeRun], files: ProbeFiles) -> float | None:
    """The learning rate that solved the task in the fewest steps; if none did, the one with the best figure on validation rows."""
    if not runs:
        return None
    sign = 1 if probe_named(runs[0].task).figure == "accuracy" else -1
    tried = [(run.learning_rate, files.outcome(run)) for run in runs]
    solved = [(outcome.num_steps, rate) for rate, outcome in tried if outcome.stopped_by == "solved"]
    return min(solved)[1] if solved else -max((sign * outcome.validation, -rate) for rate, outcome in tried)[1]


def _train_all(runs: list[ProbeRun], files: ProbeFiles, processes: int, say: Callable[[str], None]) -> None:
    """Train those of `runs` that have no file, several at a time where asked to."""
    missing = [run for run in runs if files.read(run) is None]
    for number, (run, outcome) in enumerate(_trained(missing, processes), 1):
        files.write(run, outcome)
        say(f"[{number}/{len(missing)}] {_told(run, outcome)}")


def _told(run: ProbeRun, outcome: ProbeOutcome) -> str:
    what = f"seed {run.seed}" if run.is_tested else "search"
    return (
        f"{run.task}, T = {run.length}, {run.choice.cell}, {what}, learning rate {run.learning_rate:g}: {ENDS[outcome.stopped_by]} after "
        f"{outcome.num_steps:,} steps, {outcome.seconds:.1f} s"
    )


def _trained(runs: list[ProbeRun], processes: int) -> Iterator[tuple[ProbeRun, ProbeOutcome]]:
    """Runs with their outcomes, as they end."""
    if processes == 1 or len(runs) < 2:
        yield from ((run, train_probe(run)) for run in runs)
        return
    # fresh processes: forked ones would inherit locks of torch's threads
    pool = ProcessPoolExecutor(min(processes, len(runs)), mp_context=get_context("spawn"), initializer=_end_with_the_parent)
    try:
        futures = {pool.submit(train_probe, run): run for run in runs}
        yield from ((futures[future], future.result()) for future in as_completed(futures))
    except BrokenProcessPool:
        raise UserError(
            "A training was ended from outside, as where memory runs out; start the same command again, with fewer --processes."
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _end_with_the_parent() -> None:
    """Let this process end at once and silently at Ctrl-C, and when its parent is killed, which the pool would not notice."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = parent_process()
    assert parent is not None  # it runs in a pool

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _row(place: tuple[str, int, str], runs: list[ProbeRun], searches: list[ProbeRun], files: ProbeFiles) -> MemoryRow:
    task, length, cell = place
    probe = probe_named(task)
    outcomes = [files.outcome(run) for run in runs]
    return MemoryRow(
        task,
        length,
        cell,
        outcomes[0].num_parameters,
        outcomes[0].hidden_size,
        runs[0].learning_rate,
        figures={multiple: [outcome.figures[multiple] for outcome in outcomes] for multiple in outcomes[0].figures},
        num_solved=sum(probe.is_solved(outcome.figures[1]) for outcome in outcomes),
        num_steps=[outcome.num_steps for outcome in outcomes],
        seconds=sum(outcome.seconds for outcome in outcomes),
        search_seconds=sum(files.outcome(run).seconds for run in searches),
    )
