"""What a command prints when it is done: text made from a run folder's facts or from figures, never from live objects."""

import shlex

from .evaluation.task_figures import TaskFigures, task_figures
from .run_folder import RunFolder
from .training.reporting import format_seconds


def describe_figures(figures: dict[str, float], shown: TaskFigures) -> str:
    """The figures of an evaluation, one a line, with their units, and the counts that they are of."""
    width = max(20, *map(len, shown.metrics))
    rows = [f"{name:{width}} {figures[name]:10.4f}  {metric.unit}" for name, metric in shown.metrics.items()]
    counts = [f"{name:{width}} {value:10,}" for name, value in figures.items() if name.startswith("num_")]
    return "\n".join([*rows, *counts])


def summarise_run(run: RunFolder) -> str:
    """Figures, folder and use of a finished run."""
    facts, recipe = run.read_facts(), run.read_recipe()
    training, model, usage, shown = facts["training"], facts["model"], facts["usage"], task_figures(recipe)
    amount, unit = (training["characters"], "characters") if "characters" in training else (training["tokens"], shown.trained_on)
    held_out = "text" if recipe.task in ("causal_lm", "masked_lm") else "examples"
    parts = [
        f"Trained {model['class']}, {model['num_parameters']:,} parameters, on {amount:,} {unit} in {training['steps']:,} steps "
        f"and {format_seconds(training['seconds'])} ({amount / training['seconds']:,.0f} {unit}/s); ended by {training['stopped_by']}.",
        f"On held-out {held_out} ({facts['evaluation']['split']}):\n{describe_figures(facts['evaluation'], shown)}",
        f"Run folder:   {run.path}\nModel folder: {run.model} (with its card, README.md; ready to publish)",
        "Use it in Python:\n" + "\n".join(f"    {line}" for line in usage["code"].splitlines()),
    ]
    if recipe.task in ("causal_lm", "seq2seq"):
        parts.append(f"Use it here:\n    hflab generate {shlex.quote(run.model.as_posix())} --prompt {shlex.quote(facts['prompt'])}")
    if recipe.task == "speech_recognition":
        parts.append(f"Use it here:\n    hflab transcribe {shlex.quote(run.model.as_posix())} RECORDING.wav --format srt")
    parts.append(f"Publish it:\n    hflab publish {shlex.quote(run.path.as_posix())} {recipe.publish.repo_id or 'USER/NAME'}")
    if "error" in usage:
        parts.append(f"Warning: this Python was tried and failed: {usage['error']}")
    return "\n\n".join(parts)
