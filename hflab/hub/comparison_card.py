"""One card for several runs of a task: their figures side by side, the spread over seeds, their curves, and the settings in which they differ.

    path = write_comparison([Path("runs/gru"), Path("runs/lstm")], Path("comparison.md"))

Runs that differ in nothing but their seed are one line of the table, with mean, lowest and highest. Every figure comes from run.json or
metrics.jsonl, and every setting from recipe.yaml, of the run that is named; where runs were measured on other data than the first, the card says so.
"""

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import jinja2

from ..errors import UserError
from ..evaluation.metrics import Metric
from ..evaluation.task_figures import TaskFigures, task_figures
from ..recipe import Recipe
from ..run_folder import RunFolder, write_atomically
from .card import curve_axes, flatten, reported_evaluation, units_per_token
from .card_metadata import Evaluation
from .figures import Curve, draw_comparison, evaluation_curve
from .markdown import escape, inline_code, without_folders
from .task_wording import figure_title

IGNORED_SETTINGS = ("training.seed", "publish.", "tracking.", "description")  # of which no figure depends, or that make a group


class ComparedRun(NamedTuple):
    """What is read of a run."""

    name: str
    facts: dict[str, Any]
    recipe: Recipe
    metrics: list[dict[str, Any]]
    evaluation: Evaluation

    @property
    def settings(self) -> dict[str, Any]:
        """Settings by dotted key, without those that no figure depends on."""
        return {key: value for key, value in flatten(without_folders(self.recipe.to_dict())).items() if not key.startswith(IGNORED_SETTINGS)}


Group = list[ComparedRun]  # runs that differ in their seeds alone


def write_comparison(runs: Sequence[Path], path: Path) -> Path:
    """Write the card, Markdown, to `path` and its picture beside it; return `path`.

    Raises:
        UserError: fewer than two runs, one that has not been evaluated, runs of several tasks, or a file that cannot be written.
    """
    compared = [_read(run) for run in runs]
    if len(compared) < 2:
        raise UserError("A comparison needs at least two runs.")
    tasks = sorted({run.recipe.task for run in compared})
    if len(tasks) > 1:
        raise UserError(f"Runs of one task can be compared, and these are of {len(tasks)}: {', '.join(tasks)}.")
    if path.suffix != ".md":
        raise UserError(f"The comparison is written as Markdown, and {str(path)!r} does not end in .md.")
    groups, shown = _groups(compared), task_figures(compared[0].recipe)
    picture = path.with_suffix(".png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        has_curves = draw_comparison([_curve(group) for group in groups], picture, curve_axes(compared[0].recipe))
        write_atomically(path, _render(groups, shown, picture.name if has_curves else None))
    except OSError as error:
        raise UserError(f"The comparison cannot be written to {path}: {error.strerror}; give another --output.") from None
    return path


def _read(path: Path) -> ComparedRun:
    folder = RunFolder.open_existing(path)
    facts, recipe, metrics = folder.read_facts(), folder.read_recipe(), folder.read_metrics()
    evaluation = reported_evaluation(facts, metrics)
    if evaluation is None or "model" not in facts:
        raise UserError(f"{path} was not evaluated yet; continue it with `hflab train --resume {path}`.")
    return ComparedRun(facts["name"], facts, recipe, metrics, evaluation)


def _groups(runs: list[ComparedRun]) -> list[Group]:
    """Runs with the same settings and data, in the order in which they were given."""
    groups: dict[str, Group] = {}
    for run in runs:
        key = json.dumps([run.settings, run.facts["data"]["fingerprint"], run.evaluation.split], sort_keys=True, default=str)
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _curve(group: Group) -> Curve:
    first = group[0]
    axes = curve_axes(first.recipe)
    return Curve(_label(group), [evaluation_curve(run.metrics, units_per_token(run.facts, run.recipe), axes.key) for run in group])


def _label(group: Group) -> str:
    return group[0].name if len(group) == 1 else f"{group[0].name} and {len(group) - 1} more"


def _render(groups: list[Group], shown: TaskFigures, picture: str | None) -> str:
    runs = [run for group in groups for run in group]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, autoescape=False)
    template = environment.from_string((resources.files(__package__) / "comparison_template.md").read_text(encoding="utf-8"))
    names, comparable = list(shown.metrics), [group for group in groups if _same_rows(group, groups[0])]
    return template.render(
        title=f"{len(runs)} runs compared",
        verdict=_verdict(comparable, shown),
        warnings=_warnings(runs),
        picture=picture,
        axes=curve_axes(runs[0].recipe),
        head=["runs", "seeds", "parameters", "trained on", "seconds", *(figure_title(name) for name in names)],
        rows=[_row(group, names, _best(comparable, shown)) for group in groups],
        units=[(figure_title(name), metric.unit, metric.direction) for name, metric in shown.metrics.items()],
        split=escape(runs[0].evaluation.split),
        data=escape(runs[0].facts["data"]["name"]),
        trained_on=shown.trained_on,
        settings_head=[escape(_label(group)) for group in groups],
        settings=_differences(groups),
        members=[(inline_code(run.name), run.facts["seed"], inline_code(run.facts["model"]["weights_sha256"])) for run in runs],
    )


def _same_rows(group: Group, other: Group) -> bool:
    """Whether two groups were measured on the same rows."""
    ours, theirs = group[0], other[0]
    return bool(ours.facts["data"]["fingerprint"] == theirs.facts["data"]["fingerprint"] and ours.evaluation.split == theirs.evaluation.split)


def _row(group: Group, names: list[str], best: dict[str, Group]) -> list[str]:
    facts = group[0].facts
    training = [run.facts["training"] for run in group if run.facts.get("training")]
    figures = [_mean_and_range([run.evaluation.figures[name] for run in group], best[name] is group) for name in names]
    return [
        escape(_label(group)),
        str(len({run.facts["seed"] for run in group})),
        f"{facts['model']['num_parameters']:,}",
        f"{fmean(entry['tokens'] for entry in training):,.0f}" if training else "",
        f"{fmean(entry['seconds'] for entry in training):,.0f}" if training else "",
        *figures,
    ]


def _mean_and_range(values: list[float], is_best: bool) -> str:
    mean = f"{fmean(values):.4f}"
    spread = f" ({min(values):.4f} to {max(values):.4f})" if len(values) > 1 else ""
    return f"**{mean}**{spread}" if is_best else mean + spread


def _best(groups: list[Group], shown: TaskFigures) -> dict[str, Group]:
    """The best group by each figure."""
    return {name: _sorted(groups, name, metric)[0] for name, metric in shown.metrics.items()}


def _sorted(groups: list[Group], name: str, metric: type[Metric[Any]]) -> list[Group]:
    return sorted(groups, key=lambda group: fmean(run.evaluation.figures[name] for run in group), reverse=metric.direction == "higher")


def _verdict(groups: list[Group], shown: TaskFigures) -> str:
    """Who is best by the headline, of groups that were measured on the same rows, and whether the seeds bear it out."""
    if len(groups) == 1:
        if len(groups[0]) == 1:
            return "No two of the runs were measured on the same rows, so that none can be called the best."
        return "The runs that were measured on the same rows differ in their seeds alone: the table shows what chance does."
    name = shown.headline
    first, second = _sorted(groups, name, shown.metrics[name])[:2]
    values = [[run.evaluation.figures[name] for run in group] for group in (first, second)]
    gap = abs(fmean(values[0]) - fmean(values[1]))
    start = f"By {figure_title(name)}, **{escape(_label(first))}** is best, {gap:.4f} ahead of {escape(_label(second))}."
    if min(map(len, values)) < 2:
        return f"{start} At least one of the two is a single run: how much of that is chance was not measured."
    apart = max(values[0]) < min(values[1]) or min(values[0]) > max(values[1])
    counts = f"{len(values[0])} and {len(values[1])} seeds"
    if apart:
        return f"{start} Each of its runs is better than each of the other's ({counts})."
    return f"{start} The runs of the two overlap ({counts}), so chance may have decided."


def _warnings(runs: list[ComparedRun]) -> list[str]:
    """Why figures may not compare."""
    first, warnings = runs[0], []
    other_data = [run.name for run in runs if run.facts["data"]["fingerprint"] != first.facts["data"]["fingerprint"]]
    if other_data:
        warnings.append(f"Not measured on the data of {escape(first.name)}: {escape(', '.join(other_data))}. Their figures do not compare.")
    other_split = [run.name for run in runs if run.evaluation.split != first.evaluation.split]
    if other_split:
        warnings.append(f"Measured on another split than {escape(first.name)}: {escape(', '.join(other_split))}.")
    unfinished = [run.name for run in runs if run.facts["status"] != "finished"]
    if unfinished:
        warnings.append(f"Training did not come to its end: {escape(', '.join(unfinished))}.")
    if first.recipe.task == "causal_lm" and len({run.facts["model"]["tokenizer_vocab_size"] for run in runs}) > 1:
        warnings.append("The runs have different tokenizers: figures per token do not compare, those per character and per byte do.")
    if len({json.dumps(run.facts["hardware"], sort_keys=True) for run in runs}) > 1:
        warnings.append("The runs ran on different hardware: seconds do not compare.")
    return warnings


def _differences(groups: list[Group]) -> list[list[str]]:
    """A row for each setting that is not the same everywhere."""
    settings = [group[0].settings for group in groups]
    keys = list(dict.fromkeys(key for entry in settings for key in entry))
    rows = [(key, [entry.get(key, "") for entry in settings]) for key in keys]
    return [[inline_code(key), *(inline_code(str(value)) for value in values)] for key, values in rows if any(value != values[0] for value in values)]
