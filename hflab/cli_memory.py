"""The command `hflab memory`: its options and its call. No logic."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from .errors import UserError
from .terminal import without_loading_bars

# option -> field of MemoryOptions
PROBE_OPTIONS = {
    "cells": "cells",
    "length": "lengths",
    "parameters": "num_parameters",
    "items": "num_items",
    "seeds": "seeds",
    "num_steps": "num_steps",
    "max_seconds": "max_seconds",
    "learning_rates": "learning_rates",
    "tricks": "tricks",
    "processes": "processes",
}
MODEL_OPTIONS = ("data", "split", "context", "targets")


def add_memory(parser: argparse.ArgumentParser) -> None:
    """Options of `hflab memory`; each is None where it is not given, so that one which does not belong can be refused."""
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="task to train on; without any, and without --model, they are listed")
    probes = parser.add_argument_group("tasks made on the spot, for small models at equal parameters")
    probes.add_argument("--cells", nargs="+", metavar="CELL", help="rnn, nvsi, gru, lstm, mini_transformer (default: all)")
    probes.add_argument("--length", nargs="+", type=int, metavar="T", help="length in training; tested up to 16 T (default: 16)")
    probes.add_argument("--parameters", type=int, metavar="N", help="parameters of each model (default: 10000)")
    items = "things to remember in copying, associative_recall and selective_copying (default: as many as the source has)"
    probes.add_argument("--items", type=int, metavar="N", help=items)
    probes.add_argument("--seeds", type=int, metavar="N", help="trainings of each model (default: 3)")
    probes.add_argument("--num-steps", type=int, metavar="N", help="steps of a training at most (default: 2000)")
    seconds = "seconds of a training at most; figures then depend on the machine (default: no limit)"
    probes.add_argument("--max-seconds", type=float, metavar="S", help=seconds)
    probes.add_argument("--learning-rates", nargs="+", type=float, metavar="RATE", help="tried for each model (default: 0.001 0.003 0.01)")
    tricks = "of orthogonal, clipping, forget_bias, layer_norm; alone: none (default: the first three)"
    probes.add_argument("--tricks", nargs="*", metavar="TRICK", help=tricks)
    probes.add_argument("--processes", type=int, metavar="N", help="trainings at a time, each on one core (default: 1)")
    models = parser.add_argument_group("how much context a trained language model uses")
    models.add_argument("--model", help="run folder, model folder or Hub id of a causal language model")
    models.add_argument("--data", help="file, folder or source of text (default: the model's own held-out data)")
    models.add_argument("--split", help="split of the model's own data (default: validation)")
    context = "tokens of the whole context (default: 256, or as many as the model has positions for)"
    models.add_argument("--context", type=int, metavar="C", help=context)
    models.add_argument("--targets", type=int, metavar="N", help="tokens to predict (default: 500)")
    models.add_argument("--trust-remote-code", action="store_true", help="run code that the model brings; only for a source you trust")
    parser.add_argument("--output", type=Path, default=Path("memory"), help="folder of the report and of finished trainings (default: memory)")


def run_memory(options: argparse.Namespace, overrides: dict[str, str], command: str) -> int:
    """List the tasks, study some of them, or measure a model."""
    if options.model is not None:
        _refuse(options, ("tasks", *PROBE_OPTIONS), "--model measures a trained model")
        return _measure(options)
    _refuse(options, MODEL_OPTIONS, "it goes with --model MODEL only")
    return _study(options, command) if options.tasks else _list_tasks()


def _refuse(options: argparse.Namespace, names: Any, why: str) -> None:
    """Raise `UserError` for the first of `names` that was given."""
    for name in names:
        if getattr(options, name) not in (None, []) or (name == "tricks" and options.tricks is not None):
            shown = options.tasks[0] if name == "tasks" else f"--{name.replace('_', '-')}"
            raise UserError(f"{shown} has no effect here: {why}; leave it out.")


def _list_tasks() -> int:
    from .laboratory.probe_tasks import PROBES

    for name, probe in PROBES.items():
        print(f"{name:20} {probe.summary}")
    return 0


def _study(options: argparse.Namespace, command: str) -> int:
    from .laboratory.memory import MemoryOptions
    from .laboratory.memory_commands import probe_memory
    from .laboratory.memory_report import plain_report

    given = {field: getattr(options, name) for name, field in PROBE_OPTIONS.items() if getattr(options, name) is not None}
    chosen: dict[str, Any] = {field: tuple(value) if isinstance(value, list) else value for field, value in given.items()}
    study = probe_memory(options.tasks, MemoryOptions(**chosen), output=options.output, command=command, say=partial(print, flush=True))
    print(f"\n{plain_report(study)}\n\nReport: {options.output / 'memory.md'}")
    return 0


def _measure(options: argparse.Namespace) -> int:
    from .laboratory.effective_memory import ContextOptions
    from .laboratory.effective_memory_report import plain_context_report
    from .laboratory.memory_commands import effective_memory

    without_loading_bars()
    chosen = ContextOptions(context=options.context, **({} if options.targets is None else {"targets": options.targets}))
    found = effective_memory(
        options.model,
        options.data,
        split=options.split or "validation",
        options=chosen,
        output=options.output,
        trust_remote_code=options.trust_remote_code,
    )
    print(f"{plain_context_report(found)}\n\nReport: {options.output / 'effective_memory.md'}")
    return 0
