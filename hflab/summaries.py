"""What a command prints when it is done: text made from a run folder's facts or from figures, never from live objects."""

import shlex
from collections import Counter
from typing import Any

from .data.speech_check import SpeechCheck
from .data.speech_problems import KINDS, PROBLEMS
from .evaluation.task_figures import TaskFigures, task_figures
from .hub.usage import OWN_RECORDING
from .run_folder import RunFolder
from .training.reporting import format_seconds

CLIPS_SHOWN = 3  # of each problem


def describe_figures(figures: dict[str, float], shown: TaskFigures) -> str:
    """The figures of an evaluation, one a line, with their units, and the counts that they are of."""
    width = max(20, *map(len, shown.metrics))
    rows = [f"{name:{width}} {figures[name]:10.4f}  {metric.unit}" for name, metric in shown.metrics.items()]
    counts = [f"{name:{width}} {value:10,}" for name, value in figures.items() if name.startswith("num_")]
    return "\n".join([*rows, *counts])


def summarise_run(run: RunFolder) -> str:
    """Figures, folder and use of a finished run."""
    facts, recipe = run.read_facts(), run.read_recipe()
    training, model, usage, shown = facts["training"], facts["model"], facts.get("usage", {}), task_figures(recipe)
    amount, unit = (training["characters"], "characters") if "characters" in training else (training["tokens"], shown.trained_on)
    held_out = "text" if recipe.task in ("causal_lm", "masked_lm") else "examples"
    parts = [
        f"Trained {model['class']}, {model['num_parameters']:,} parameters, on {amount:,} {unit} in {training['steps']:,} steps "
        f"and {format_seconds(training['seconds'])} ({amount / training['seconds']:,.0f} {unit}/s); ended by {training['stopped_by']}.",
        f"On held-out {held_out} ({facts['evaluation']['split']}):\n{describe_figures(facts['evaluation'], shown)}",
        f"Run folder:   {run.path}\nModel folder: {run.model} (with its card, README.md; ready to publish)",
    ]
    if usage:
        parts.append("Use it in Python:\n" + "\n".join(f"    {line}" for line in usage["code"].splitlines()))
    if recipe.task in ("causal_lm", "seq2seq"):
        parts.append(f"Use it here:\n    hflab generate {shlex.quote(run.model.as_posix())} --prompt {shlex.quote(facts['prompt'])}")
    if recipe.task == "speech_recognition":
        parts.append(f"Use it here:\n    hflab transcribe {shlex.quote(run.model.as_posix())} RECORDING.wav --format srt")
    parts.append(f"Publish it:\n    hflab publish {shlex.quote(run.path.as_posix())} {recipe.publish.repo_id or 'USER/NAME'}")
    if "sampling_rate" in usage:
        parts.append(
            f"This Python was not run: {OWN_RECORDING} is to be a recording of yours, of one channel and {usage['sampling_rate']:,} samples a second."
        )
    if "error" in usage:
        parts.append(f"Warning: this Python was tried and failed: {usage['error']}")
    return "\n\n".join(parts)


def describe_language_model(found: dict[str, Any], model: str) -> str:
    """What a language model does for a recognizer, and plainly whether it helps; `found` is that entry of run.json, `model` how it is called."""
    settings, greedy, with_it = found["settings"], found["greedy"], found["with_language_model"]
    weight = settings["language_model_weight"]
    rows: list[tuple[str, ...]] = [
        ("word error rate", "greedy", "with it"),
        *((split, f"{greedy[split]:.4f}", f"{with_it[split]:.4f}") for split in greedy),
    ]
    parts = [f"{found['order']}-grams of {found['text']}; weight {weight:g}, {settings['word_bonus']:+g} for each word.", _columns(rows)]
    if weight == 0:
        used = "What is used of it is its list of words." if settings["unknown_word_penalty"] > 0 else "Nothing of it is used."
        parts.append(f"Weight 0: its probabilities did not help on the validation split, no higher weight that was tried had fewer errors. {used}")
    leave_out = f"hflab transcribe {shlex.quote(model)} RECORDING --beams 1"
    if with_it["validation"] >= greedy["validation"]:
        parts.append(
            f"It does not help on the validation split. It is saved all the same; `{leave_out}` leaves it out, text like what is said may help."
        )
    else:
        parts.append(f"Saved with the model: `hflab transcribe` takes it from now on, and `{leave_out}` leaves it out.")
    return "\n\n".join(parts)


def describe_check(found: SpeechCheck) -> str:
    """What there is of speech data, and each problem with its count, first clips and cure."""
    parts = [
        f"{found.name}: {len(found.clips):,} clips; the model reads {found.sampling_rate:,} samples a second, normalizer {found.normalizer!r}.",
        _columns([("split", "clips", "hours", "speakers", "median s", "longest s"), *_split_rows(found)]),
        *([_columns([("stored as", "channels", "clips"), *_stored_rows(found)])] if found.stored_as else []),
    ]
    for kind, heading in KINDS.items():
        of_kind = [_problem(name, found) for name in PROBLEMS if PROBLEMS[name].kind == kind and name in found.findings]
        if kind == "note" and found.unlisted_sounds:
            of_kind.append(_unlisted(found.unlisted_sounds))
        if of_kind:
            parts.append("\n".join([f"{heading}:", *of_kind]))
    parts.append(_verdict(found))
    return "\n\n".join(parts)


def _split_rows(found: SpeechCheck) -> list[tuple[str, ...]]:
    return [
        (
            name,
            f"{size.clips:,}",
            f"{size.seconds / 3600:,.2f}",
            "unknown" if size.speakers is None else f"{size.speakers:,}",
            f"{size.median_seconds:.1f}",
            f"{size.longest_seconds:.1f}",
        )
        for name, size in found.splits.items()
    ]


def _stored_rows(found: SpeechCheck) -> list[tuple[str, ...]]:
    return [(f"{stored.sampling_rate:,} Hz", str(stored.num_channels), f"{count:,}") for stored, count in found.stored_as.items()]


def _columns(rows: list[tuple[str, ...]]) -> str:
    """Rows of equal columns, the first flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{row[0]:{widths[0]}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _problem(name: str, found: SpeechCheck) -> str:
    findings, problem = found.findings[name], PROBLEMS[name]
    splits = Counter(finding.clip.split for finding in findings)
    where = ", ".join(f"{count:,} {split}" for split, count in splits.items())
    first = [f"{finding.clip.name}: {finding.why}" for finding in findings[:CLIPS_SHOWN]]
    return _entry(problem.title, len(findings), f", {len(findings) / len(found.clips):.1%} of all: {where}", first, problem.cure)


def _unlisted(sounds: list[str]) -> str:
    return _entry("sound files that are no clip", len(sounds), "", sounds[:CLIPS_SHOWN], "add a transcript or a row for those to be learnt")


def _entry(title: str, count: int, about: str, first: list[str], cure: str) -> str:
    more = [f"and {count - len(first):,} more"] if count > len(first) else []
    return "\n".join([f"  {title} ({count:,}{about})", *(f"      {_printable(line)}" for line in [*first, *more]), f"    → {cure}"])


def _printable(line: str) -> str:
    """The line with escapes for what a terminal would obey or cannot write, such as are found in names of files."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in line)


def _verdict(found: SpeechCheck) -> str:
    if not found.left_out:
        return "All training clips can be learnt from." if found.has_problems else "Nothing is lost or spoilt: all training clips can be learnt from."
    lost = format_seconds(sum(clip.seconds for clip, _ in found.left_out))
    stopped = "; it stops as long as there are unreadable ones" if "unreadable" in found.findings else ""
    return f"Training leaves out {len(found.left_out):,} of its {found.splits['train'].clips:,} clips, {lost} of sound{stopped}."
