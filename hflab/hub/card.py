"""The model card of a run: README.md of its model folder, made from the run's files and nothing else.

    path = write_card(Path("runs/bpe_lstm_shakespeare"))

Every figure comes from run.json or metrics.jsonl and every setting from recipe.yaml, so a card can be written again at any time, on another
machine. What a run does not know is left out. Sentences about the run are made in `card_sentences.py`, their order is `card_template.md`.
"""

import math
import shlex
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard

from ..errors import UserError
from ..evaluation.task_figures import task_figures
from ..recipe import Recipe
from ..run_folder import RunFolder, write_atomically
from .card_metadata import Evaluation, card_metadata, hub_evaluation_entries
from .card_sentences import (
    LANGUAGE_MODEL_USE,
    citation,
    data_description,
    end_of_training,
    energy_rows,
    figures_method,
    figures_subject,
    language_model_sentences,
    licence_sentence,
    limitation_sentences,
    own_recording_sentence,
    reproduction_method,
    source_sentence,
    summary_sentences,
    unfinished_notice,
)
from .figures import CurveAxes, draw_learning_curve, tokens_at
from .markdown import escape, fence, inline_code, portable_code, portable_command, redact, without_folders
from .task_wording import WORDING, figure_title
from .usage import OWN_RECORDING

CURVE_FILE = "learning_curve.png"
NOT_SETTINGS = ("publish.", "tracking.", "description")  # keys of a recipe that do not change the model
# counts of a split, and facts about the data, in the order in which a card tells those that are known
SPLIT_COUNTS = {
    "rows": "rows",
    "seconds": "seconds",
    "speakers": "speakers",
    "characters": "characters",
    "bytes": "bytes",
    "tokens": "tokens",
    "sentences": "sentences",
    "documents": "documents",
    "rows_cut": "rows cut short",
}
DATA_FACTS = {
    "origin": "origin",
    "license": "licence",
    "language": "language",
    "target_language": "language of the targets",
    "labels": "classes",
    "fingerprint": "fingerprint",
}
MOST_EVALUATIONS = 12  # rows of the table of evaluations


def write_card(run: Path, shown_as: str | None = None) -> Path:
    """Write README.md, the learning curve and, for text from the Hub, `.eval_results/` into the model folder of `run`; return README.md.

    Args:
        run: the run folder.
        shown_as: what examples call the model; default: the recipe's publish.repo_id, and without it the model folder.

    Raises:
        UserError: `run` is no run folder, or no model was saved in it yet.
    """
    folder = RunFolder.open_existing(run)
    facts, recipe, metrics = folder.read_facts(), folder.read_recipe(), folder.read_metrics()
    if "model" not in facts:
        raise UserError(f"{run} has no model to describe yet; continue it with `hflab train --resume {run}`.")
    folder.model.mkdir(exist_ok=True)
    evaluation = reported_evaluation(facts, metrics)
    axes = curve_axes(recipe)
    has_curve = draw_learning_curve(metrics, units_per_token(facts, recipe), folder.model / CURVE_FILE, axes)
    card = ModelCard.from_template(
        card_metadata(facts, recipe, evaluation),
        template_str=(resources.files(__package__) / "card_template.md").read_text(encoding="utf-8"),
        **_describe(facts, recipe, metrics, evaluation, shown_as or recipe.publish.repo_id or f"runs/{facts['name']}/model"),
        curve=_curve_in_words(metrics, facts, recipe) if has_curve else None,
    )
    path = folder.model / "README.md"
    write_atomically(path, redact(str(card)).rstrip("\n") + "\n")
    _write_hub_results(folder.model, recipe, evaluation)
    return path


def _write_hub_results(model: Path, recipe: Recipe, evaluation: Evaluation | None) -> None:
    entries = hub_evaluation_entries(recipe, evaluation)
    if entries:
        results = model / ".eval_results"
        results.mkdir(exist_ok=True)
        write_atomically(results / f"{entries[0]['dataset']['id'].replace('/', '--')}.yaml", yaml.safe_dump(entries, sort_keys=False))


def reported_evaluation(facts: dict[str, Any], metrics: list[dict[str, Any]]) -> Evaluation | None:
    """The last evaluation of the run: that of the published model, or, in a run that did not get there, the last one while training."""
    if facts.get("evaluation"):
        return Evaluation(facts["evaluation"]["split"], facts["evaluation"], step=None)
    lines = [line for line in metrics if line["kind"] == "evaluation"]
    return Evaluation(lines[-1]["split"], lines[-1], step=lines[-1]["step"]) if lines else None


def units_per_token(facts: dict[str, Any], recipe: Recipe) -> float:
    """A language model's amount of training is told in characters, that of others in the labels they learnt from."""
    train = facts["data"]["splits"]["train"]
    return train["characters"] / train["tokens"] if recipe.task == "causal_lm" else 1.0


def curve_axes(recipe: Recipe) -> CurveAxes:
    """What the learning curve of a run shows."""
    shown = task_figures(recipe)
    if recipe.task == "causal_lm":
        return CurveAxes()
    unit = shown.metrics[shown.headline].unit
    return CurveAxes(shown.headline, f"{figure_title(shown.headline)} ({unit})", shown.trained_on, WORDING[recipe.task].text)


def _describe(facts: dict[str, Any], recipe: Recipe, metrics: list[dict[str, Any]], evaluation: Evaluation | None, shown_as: str) -> dict[str, Any]:
    """Values of the template's names."""
    return {
        "title": escape(facts["name"]),
        "summary": summary_sentences(facts, recipe, evaluation),
        "notice": unfinished_notice(facts),
        "description": recipe.publish.description,
        "intended_use": recipe.publish.intended_use,
        "usage": _usage(facts, recipe, shown_as),
        "figures": _figures(facts, recipe, evaluation, shown_as),
        "language_model": _language_model(facts, recipe),
        "evaluations_head": _evaluations_head(recipe),
        "evaluations": _evaluation_rows(metrics, facts, recipe),
        "training": _training_rows(facts, recipe),
        "settings": _settings(recipe),
        "recipe": fence(yaml.safe_dump(_public_recipe(recipe), sort_keys=False, allow_unicode=True), "yaml"),
        "data": _data(facts, recipe),
        "limitations": limitation_sentences(facts, recipe, evaluation, _num_looks(metrics, evaluation)),
        "own_limitations": recipe.publish.limitations,
        "reproduction": _reproduction(facts, recipe),
        "licence": licence_sentence(facts, recipe),
        "citation": fence(citation(facts, shown_as), "bibtex"),
    }


def _num_looks(metrics: list[dict[str, Any]], evaluation: Evaluation | None) -> int:
    """At how many earlier steps the split of `evaluation` was evaluated."""
    steps = {line["step"] for line in metrics if line["kind"] == "evaluation" and evaluation and line["split"] == evaluation.split}
    return max(0, len(steps) - 1)


def _usage(facts: dict[str, Any], recipe: Recipe, shown_as: str) -> dict[str, str] | None:
    """The usage example as it ran, or why it was not run; None when it failed."""
    usage = facts.get("usage")
    if not usage or "error" in usage:
        return None
    prompt = facts["prompt"] if "output" in usage else OWN_RECORDING
    return {
        "code": fence(portable_code(usage["code"], f"{facts['name']}/model", shown_as), "python"),
        "said": "It printed:" if "output" in usage else own_recording_sentence(usage["sampling_rate"]),
        "output": fence(usage["output"], "text") if "output" in usage else "",
        "leads_on": WORDING[recipe.task].use,
        "command": fence(_command_of_use(recipe, shown_as, prompt), "bash"),
    }


def _command_of_use(recipe: Recipe, shown_as: str, prompt: str) -> str:
    """The command of hflab that does what the usage example does."""
    if recipe.task == "speech_recognition":
        return f"hflab transcribe {shlex.quote(shown_as)} {shlex.quote(prompt)} --format srt"
    return f"hflab generate {shlex.quote(shown_as)} --prompt {shlex.quote(prompt)}"


def _language_model(facts: dict[str, Any], recipe: Recipe) -> dict[str, Any] | None:
    """What the language model that was saved with a recognizer does for it."""
    found = facts.get("language_model")
    if found is None:
        return None
    splits = zip(found["greedy"].items(), found["with_language_model"].values(), strict=True)
    return {
        "what": language_model_sentences(found, recipe),
        "rows": [(escape(split), f"{greedy:.4f}", f"{with_it:.4f}") for (split, greedy), with_it in splits],
        "use": LANGUAGE_MODEL_USE,
    }


def _figures(facts: dict[str, Any], recipe: Recipe, evaluation: Evaluation | None, shown_as: str) -> dict[str, Any] | None:
    if evaluation is None:
        return None
    metrics = task_figures(recipe).metrics
    return {
        "what": figures_subject(facts, recipe, evaluation),
        "rows": [(name.replace("_", " "), f"{evaluation.figures[name]:.4f}", metric.unit, metric.direction) for name, metric in metrics.items()],
        "how": figures_method(recipe),
        "command": fence(_evaluation_command(recipe, evaluation, shown_as), "bash"),
    }


def _evaluation_command(recipe: Recipe, evaluation: Evaluation, shown_as: str) -> str:
    words = ["hflab", "evaluate", shown_as, "--split", evaluation.split]
    if recipe.data.path:  # the reader's copy of the text lies elsewhere
        words += ["--data.path", without_folders(recipe.data.path)]
    return shlex.join(words)


def _evaluations_head(recipe: Recipe) -> list[str]:
    """The columns of `_evaluation_rows`."""
    shown, axes = task_figures(recipe), curve_axes(recipe)
    return ["split", "optimizer steps", f"{axes.trained_on} trained on", shown.metrics["loss"].unit, axes.figure]


def _evaluation_rows(metrics: list[dict[str, Any]], facts: dict[str, Any], recipe: Recipe) -> list[tuple[str, ...]]:
    """The evaluations of the run, the last of each step and split; at most MOST_EVALUATIONS of them, evenly chosen, with the first and last."""
    lines = list({(line["step"], line["split"]): line for line in metrics if line["kind"] == "evaluation"}.values())
    count = min(len(lines), MOST_EVALUATIONS)
    chosen = [lines[round(index * (len(lines) - 1) / max(1, count - 1))] for index in range(count)]
    tokens = tokens_at(metrics, [line["step"] for line in chosen])
    headline, scale = task_figures(recipe).headline, units_per_token(facts, recipe)
    return [
        (
            escape(line["split"]),
            f"{line['step']:,}",
            f"{round(seen * scale):,}",
            f"{line['loss']:.4f}",
            f"{line[headline]:.4f}",
        )
        for line, seen in zip(chosen, tokens, strict=True)
    ]


def _curve_in_words(metrics: list[dict[str, Any]], facts: dict[str, Any], recipe: Recipe) -> str:
    """The picture for those who do not see it."""
    rows, axes = _evaluation_rows(metrics, facts, recipe), curve_axes(recipe)
    fall = f", {rows[0][-1]} at the first evaluation and {rows[-1][-1]} at the last" if rows else ""
    return f"Learning curve: {axes.figure} against {axes.trained_on} trained on{fall}"


def _training_rows(facts: dict[str, Any], recipe: Recipe) -> list[tuple[str, str]]:
    training, hardware, model = facts.get("training"), facts["hardware"], facts["model"]
    labels = task_figures(recipe).trained_on
    rows = []
    if training:
        characters = f"{training['characters']:,} characters, " if "characters" in training else ""
        rows = [
            ("trained on", f"{characters}{training['tokens']:,} {labels}, {training['epochs']:.2f} epochs"),
            ("optimizer steps", f"{training['steps']:,}"),
            ("ended by", end_of_training(facts, recipe)),
            ("time", f"{training['seconds']:,.1f} s, {training['tokens_per_second']:,.0f} {labels}/s"),
        ]
    memory = f", {hardware['memory_gigabytes']} GiB of memory" if hardware["memory_gigabytes"] else ""
    return [
        *rows,
        *energy_rows(facts),
        ("device", escape(f"{hardware['device']} ({hardware['processor']}, {hardware['num_cpus']} CPUs{memory})")),
        ("processes", str(hardware["num_processes"])),
        ("seed", str(facts["seed"])),
        ("parameters", f"{model['num_parameters']:,}"),
        ("size of the weights", f"{model['num_bytes']:,} bytes"),
        ("SHA-256 of the weights", inline_code(model["weights_sha256"])),
    ]


def _public_recipe(recipe: Recipe) -> dict[str, Any]:
    """The recipe without folders of this machine; text that a person wrote stays as it is."""
    values = recipe.to_dict()
    values["data"]["cache_dir"] = None
    prompt, publish = values["evaluation"]["sample_prompt"], values["publish"]
    public = without_folders(values)
    public["evaluation"]["sample_prompt"], public["publish"] = prompt, publish
    return public


def _settings(recipe: Recipe) -> list[tuple[str, str, str]]:
    """(key, value, default) of every setting that differs from hflab's default; a family's config fields have none here."""
    values, defaults = flatten(_public_recipe(recipe)), flatten(Recipe().to_dict())
    return [
        (inline_code(key), inline_code(_as_yaml(value)), _default(key, defaults))
        for key, value in values.items()
        if value != defaults.get(key) and not key.startswith(NOT_SETTINGS)
    ]


def _default(key: str, defaults: dict[str, Any]) -> str:
    if key in defaults:
        return inline_code(_as_yaml(defaults[key]))
    return "the family's" if key.startswith("model.") else "none"


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value})
    return flat


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf).removesuffix("\n").removesuffix("\n...")


def _data(facts: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    data = facts["data"]
    counts = {key: title for key, title in SPLIT_COUNTS.items() if key in data["splits"]["train"]}
    begins = "begins" if recipe.task in ("causal_lm", "masked_lm") else "begins with the row"
    sampled = next((name for name, split in data["splits"].items() if split["sample"]), None)
    return {
        "what": data_description(facts),
        "splits_head": list(counts.values()),
        "splits": [(escape(name), *(f"{split[key]:,}" for key in counts)) for name, split in data["splits"].items()],
        "rows": [
            (title, inline_code(data[name] if isinstance(data[name], str) else ", ".join(data[name])))
            for name, title in DATA_FACTS.items()
            if data.get(name)
        ],
        "sample_of": f"The {escape(sampled)} split {begins}:" if sampled else "",
        "sample": fence(data["splits"][sampled]["sample"], "text") if sampled else "",
    }


def _reproduction(facts: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    return {
        "how": reproduction_method(recipe),
        "command": fence(portable_command(facts["command"]), "bash"),
        "source": source_sentence(facts),
        "versions": "Versions: " + ", ".join(f"{escape(package)} {version}" for package, version in facts["versions"].items()) + ".",
    }
