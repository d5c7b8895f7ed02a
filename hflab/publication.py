"""Publish a run, a model folder or a data set: look at it, measure it again, send it, fetch it back, and measure what came back.

    publication = publish("runs/bpe_lstm_shakespeare", "ada/shakespeare", PublishOptions(tag="v1"), say=print)

Only when all of that agrees is something called published. What is looked at stands in `hub/preflight.py`, how it is sent in `hub/publishing.py`.
"""

import json
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import ModelCard

from .errors import UserError
from .hub.card import write_card
from .hub.preflight import Problem, check_dataset, check_model
from .hub.publishing import Published, PublishOptions, check_repo_id, downloaded, local_files, make_plan
from .hub.publishing import publish as send
from .hub.usage import CardUsage, execute_usage, run_usage_of_card, usage_of_card
from .hub.verification import RecordedCall, check_same, recorded_calls
from .measuring import OpenedModel, model_folder, open_model
from .recipe import load_recipe
from .run_folder import RunFolder

SAME_FIGURE = 0.01  # relative difference of a figure that was measured again: on another machine, or another device, sums are rounded otherwise
SAME_SAMPLE = 1e-4  # of one that is measured twice here

Say = Callable[[str], None]


@dataclass(frozen=True)
class Publication:
    """What is there now, and what it was held against."""

    published: Published
    figures: dict[str, float] = field(default_factory=dict)
    """Those of the card that were measured again; empty where the card has none or the data are not here."""

    def __str__(self) -> str:
        """What a person wants to know and keep."""
        published = self.published
        lines = [
            f"Published {published.address}" if published.changed else f"{published.address} had all of it already",
            f"commit {published.commit}",
        ]
        lines += [f"pull request {published.pull_request}"] if published.pull_request else []
        lines += [f"{name.replace('_', ' ')} {figure:.4f}" for name, figure in self.figures.items()]
        lines += [f"sha256 {sha256}  {name}" for name, sha256 in published.files.items()]
        return "\n  ".join(lines)


@dataclass(frozen=True)
class _Checked:
    """What a model folder did here, for what comes back to be held against."""

    figures: dict[str, float]
    sample: dict[str, float]
    auto_class: str
    data_path: str | None
    """Where the data are here, which a published recipe does not say."""
    calls: list[RecordedCall]
    usage: CardUsage | None
    printed: str | None


def publish(
    source: str | Path,
    repo_id: str,
    options: PublishOptions | None = None,
    *,
    dry_run: bool = False,
    trust_remote_code: bool = False,
    say: Say = lambda line: None,
) -> Publication | None:
    """Publish a model or, with `options.repo_type` "dataset", a folder of data; see `hflab publish`.

    Args:
        source: run folder or model folder; the card of a run is written anew, with the repository's name.
        repo_id: USER/NAME on the Hub that HF_ENDPOINT names, by default huggingface.co.
        options: how to publish.
        dry_run: look and measure, say what would be sent, and return None.
        trust_remote_code: run the code that a model of a family that is not hflab's brings, to measure it.
        say: takes a line for each thing that was done.

    Raises:
        UserError: what forbids publishing, each with its cure; what the Hub refuses; or what came back other than it was sent.
    """
    chosen = options or PublishOptions()
    check_repo_id(repo_id)
    if chosen.repo_type == "dataset":
        return _publish_dataset(Path(source), repo_id, chosen, dry_run, say)
    folder = _folder(source)
    run = _run_of(folder)
    with run.locked() if run else nullcontext():
        if run is not None:
            _write_card(run, repo_id)
        _refuse(folder, check_model(folder, _data_license(folder, run)), say)
        checked = _check(folder, run, repo_id, trust_remote_code, say)
        if dry_run:
            _only_say(folder, repo_id, chosen, say)
            return None
        published = send(folder, repo_id, chosen, say=say)
    say(f"Downloading commit {published.commit} into a fresh cache, to compare it.")
    with downloaded(published, chosen) as found:
        _check_download(found, repo_id, checked, trust_remote_code)
    return Publication(published, checked.figures)


def _folder(source: str | Path) -> Path:
    folder = Path(model_folder(source))
    if not folder.is_dir():
        raise UserError(f"There is no folder {str(source)!r}; give the run folder or the model folder that is to be published.")
    return folder


def _run_of(folder: Path) -> RunFolder | None:
    run = RunFolder(folder.parent)
    return run if folder.name == "model" and run.facts_file.is_file() and run.recipe_file.is_file() else None


def _write_card(run: RunFolder, repo_id: str) -> None:
    """The card with the name that the repository will have, and its usage example run once more."""
    usage = execute_usage(run.model, repo_id, run.read_facts()["prompt"], run.read_recipe().task)
    if "error" in usage:
        raise UserError(f"The usage example fails in a process without hflab: {usage['error']} Train or save the model again.")
    run.update_facts(usage=usage)
    write_card(run.path, shown_as=repo_id)


def _data_license(folder: Path, run: RunFolder | None) -> str | None:
    if run is not None:
        return str(run.read_facts()["data"]["license"] or "") or None
    recipe = folder / "recipe.yaml"
    return load_recipe(recipe).data.license if recipe.is_file() else None


def _refuse(folder: Path, problems: list[Problem], say: Say) -> None:
    """Say the warnings; raise for the rest."""
    for problem in problems:
        if not problem.is_error:
            say(f"Warning: {problem}")
    errors = [str(problem) for problem in problems if problem.is_error]
    if errors:
        raise UserError(f"{folder} cannot be published as it is:\n  " + "\n  ".join(errors))


def _check(folder: Path, run: RunFolder | None, repo_id: str, trust_remote_code: bool, say: Say) -> _Checked:
    """Measure the model again, repeat some of that in a clean process, and run the card's usage example there."""
    if run is not None and (run.read_facts().get("git") or {}).get("dirty"):
        say("Warning: the code had uncommitted changes when the model was trained; the card says so.")
    recorded, split = _recorded_figures(folder)
    figures: dict[str, float] = {}
    sample: dict[str, float] = {}
    calls: list[RecordedCall] = []
    auto_class, data_path = "", None
    try:
        opened = open_model(folder, split=split, trust_remote_code=trust_remote_code)
    except UserError as error:
        if run is not None:
            raise
        say(f"Warning: its figures were not measured again: {error}")
    else:
        auto_class, data_path = opened.task.auto_class().__name__, opened.task.recipe.data.path
        with recorded_calls(opened.model) as calls:
            sample = opened.evaluate(in_full=False).figures
        figures = _check_figures(opened, recorded, say)
        difference = check_same(folder, auto_class, calls)
        say(f"A process without hflab computes the same logits (largest difference {difference:.1e}, over {len(calls)} of its batches).")
    usage = usage_of_card((folder / "README.md").read_text(encoding="utf-8"))
    # the card of a run was written a moment ago, after its example had run
    printed = run.read_facts()["usage"].get("output") if run is not None else _run_usage(usage, repo_id, folder, say)
    return _Checked(figures, sample, auto_class, data_path, calls, usage, printed)


def _recorded_figures(folder: Path) -> tuple[dict[str, float], str]:
    """The figures of the card's metadata by name, and the split that they are of."""
    try:
        results = ModelCard.load(folder / "README.md").data.eval_results or []
        split = results[0].dataset_split if results else None
        return {result.metric_type: float(result.metric_value) for result in results if result.dataset_split == split}, split or "validation"
    except (ValueError, KeyError, TypeError) as error:  # a model-index that somebody wrote by hand
        raise UserError(f"The metadata of {folder / 'README.md'} cannot be read: {error!r}; mend its model-index, or remove it.") from None


def _check_figures(opened: OpenedModel, recorded: dict[str, float], say: Say) -> dict[str, float]:
    if not recorded:
        say("Warning: the card has no figures; nothing says how good the model is.")
        return {}
    measured = opened.evaluate().figures
    figures = {name: measured[name] for name in recorded if name in measured}
    for name, figure in figures.items():
        if abs(figure - recorded[name]) > SAME_FIGURE * max(abs(recorded[name]), SAME_FIGURE):
            raise UserError(
                f"The card says {name} {recorded[name]:g} on the {opened.split} split, and measured again it is {figure:g}; the model or the data "
                "are not those that the card was written of. Train it again, or evaluate it and write the card again."
            )
    headline = opened.task.figures.headline
    if headline in figures:
        say(f"Measured again on the {opened.split} split: {headline} {figures[headline]:.4f}, and the card says {recorded[headline]:.4f}.")
    return figures


def _run_usage(usage: CardUsage | None, repo_id: str, folder: Path, say: Say) -> str | None:
    """What the card's usage example prints with the model of `folder`; None where it cannot be run."""
    if usage is None:
        say("Warning: the card shows no usage example in Python.")
        return None
    if usage.reads_own_recording:
        say("The usage example reads a recording of the reader's, so it was not run.")
        return None
    outcome = run_usage_of_card(usage, repo_id, folder)
    if outcome is None:
        say(f"Warning: the usage example of the card does not name {repo_id!r}, so it was not run.")
        return None
    if outcome.error is not None:
        raise UserError(f"The usage example of the card fails in a process without hflab: {outcome.error}")
    return outcome.output


def _check_download(found: Path, repo_id: str, checked: _Checked, trust_remote_code: bool) -> None:
    """Hold the model that was downloaded against what it did before it was sent.

    Raises:
        UserError: it does something else.
    """
    if checked.printed is not None and checked.usage is not None:
        outcome = run_usage_of_card(checked.usage, repo_id, found)
        if outcome is None or outcome.error is not None or outcome.output != checked.printed:
            raise UserError(f"The usage example does something else with what was downloaded: {outcome.error or outcome.output if outcome else ''}")
    if checked.calls:
        check_same(found, checked.auto_class, checked.calls)
        _, split = _recorded_figures(found)
        overrides = {} if checked.data_path is None else {"data.path": checked.data_path}
        again = open_model(found, split=split, overrides=overrides, trust_remote_code=trust_remote_code).evaluate(in_full=False).figures
        for name, figure in checked.sample.items():
            if not abs(again[name] - figure) <= SAME_SAMPLE * max(abs(figure), 1.0):
                raise UserError(f"What was downloaded is other than what was sent: {name} of a sample is {again[name]:g}, and was {figure:g}.")


def _only_say(folder: Path, repo_id: str, options: PublishOptions, say: Say) -> None:
    """What would be sent."""
    files = local_files(folder)
    for name, sha256 in files.items():
        say(f"  {sha256[:12]}  {(folder / name).stat().st_size:>13,}  {name}")
    try:
        say(f"Nothing was sent. It would be, to {repo_id}: {make_plan(folder, files, repo_id, options)}.")
    except UserError as error:
        say(f"Nothing was sent. What {repo_id} has already is not known: {error}")


def _publish_dataset(folder: Path, repo_id: str, options: PublishOptions, dry_run: bool, say: Say) -> Publication | None:
    if not folder.is_dir():
        raise UserError(f"There is no folder {str(folder)!r}; give the folder of the data set, with its README.md.")
    _refuse(folder, check_dataset(folder), say)
    rows = _rows(folder)
    say(f"Loads as a data set: {json.dumps(rows)} rows.")
    if dry_run:
        _only_say(folder, repo_id, options, say)
        return None
    published = send(folder, repo_id, options, say=say)
    say(f"Downloading commit {published.commit} into a fresh cache, to compare it.")
    with downloaded(published, options) as found:
        again = _rows(found)
        if again != rows:
            raise UserError(f"What was downloaded has other rows than what was sent: {again} instead of {rows}.")
    return Publication(published)


def _rows(folder: Path) -> dict[str, Any]:
    """Rows by split, by the configuration of the folder's card. Raises `UserError` where datasets cannot load it."""
    with tempfile.TemporaryDirectory() as cache:
        try:
            loaded = datasets.load_dataset(str(folder), cache_dir=cache)
        except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
            raise UserError(f"datasets cannot load {folder}: {(str(error).splitlines() or [type(error).__name__])[0]}") from None
        return {name: len(split) for name, split in loaded.items()}
