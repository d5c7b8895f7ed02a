"""What a command prints when it is done: text made from a run folder's facts or from figures, never from live objects."""

import shlex

from .evaluation.metrics import METRICS
from .run_folder import RunFolder
from .training.reporting import format_seconds


def describe_figures(figures: dict[str, float]) -> str:
    """The figures of an evaluation, one a line, with their units."""
    rows = [f"{name:20} {figures[name]:10.4f}  {metric.unit}" for name, metric in METRICS.items()]
    return "\n".join([*rows, f"{'num_tokens':20} {figures['num_tokens']:10,}", f"{'num_characters':20} {figures['num_characters']:10,}"])


def summarise_run(run: RunFolder) -> str:
    """Figures, folder and use of a finished run."""
    facts = run.read_facts()
    training, model, usage = facts["training"], facts["model"], facts["usage"]
    prompt = shlex.quote(facts["prompt"])
    speed = training["characters"] / training["seconds"]
    parts = [
        f"Trained {model['class']}, {model['num_parameters']:,} parameters, on {training['characters']:,} characters in {training['steps']:,} steps "
        f"and {format_seconds(training['seconds'])} ({speed:,.0f} characters/s); ended by {training['stopped_by']}.",
        f"On held-out text ({facts['evaluation']['split']}):\n{describe_figures(facts['evaluation'])}",
        f"Run folder:   {run.path}\nModel folder: {run.model} (with its card, README.md; ready to publish)",
        "Use it in Python:\n" + "\n".join(f"    {line}" for line in usage["code"].splitlines()),
        f"Use it here:\n    hflab generate {shlex.quote(run.model.as_posix())} --prompt {prompt}",
    ]
    if "error" in usage:
        parts.append(f"Warning: this Python was tried and failed: {usage['error']}")
    return "\n\n".join(parts)
