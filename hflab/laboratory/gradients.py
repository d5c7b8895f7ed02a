"""From recipes, runs and models to figures about their gradients: at initialisation, during training and after it.

    report = measure_gradients(["char_lstm_shakespeare", "runs/char_gru"], GradientOptions(steps=64))
    report.models[0].stages[0].curve("hidden").half_life

A recipe is built untrained from each of some seeds, with its own data. A run is measured as it began, at each checkpoint that it keeps and as it
ended. A model folder or Hub id is measured as it is. Knows nothing about pictures, pages and files that are written.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from safetensors.torch import load_model as load_weights
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.sources import SOURCES
from ..errors import UserError, nearest
from ..inspection.loading import load_model
from ..measuring import model_folder, open_model, shown_name
from ..recipe import Recipe, load_recipe, recipe_names
from ..run_folder import RunFolder
from ..training.checkpoints import list_checkpoints
from ..training.task import Task
from ..training.tasks import TASKS, check_recipe
from .gradient_claims import Verdict, judge_claims
from .gradient_figures import ModelGradients, Stage
from .gradient_measuring import measure_stage
from .gradient_rows import Rows, read_text_of, text_tokens, texts_with_classes, windows

TASKS_WITH_GRADIENTS = ("causal_lm", "text_classification")
AT_THE_BEGINNING, AT_THE_END = "at initialisation", "after training"
BEFORE_FINE_TUNING = "before fine-tuning"
MOST_TOKENS = 8192  # over all rows, unless one row has more
CHECKPOINT_WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class GradientOptions:
    """What gradients are measured on, and how."""

    text: str | None = None
    """Text to measure on; default: held-out data of each model."""
    data: str | None = None
    """File, folder or source of text, or of labelled examples for a classifier; default: as above."""
    split: str = "validation"
    """Split of the models' own data."""
    steps: int = 64
    """T, tokens that are read, from a zero state; at least 2. Distances reach to T - 1."""
    seeds: int = 3
    """Models built of each recipe, at least 1; the first has the recipe's own seed."""
    rows: int = 8
    """Most windows or texts, at least 1; of long ones fewer."""
    probes: int | None = None
    """Random vectors for each estimate of a state's gradient, at least 2; 0: exactly; default: exactly where that takes seconds, else 16."""
    trust_remote_code: bool = False
    """Run the code that comes with a model of another family."""

    def check(self) -> None:
        """Raise `UserError` for a number out of range, or text and data together."""
        for name, lowest in (("steps", 2), ("seeds", 1), ("rows", 1)):
            if getattr(self, name) < lowest:
                raise UserError(f"--{name} is {getattr(self, name)}; it must be at least {lowest}.")
        if self.probes is not None and (self.probes < 0 or self.probes == 1):
            raise UserError(f"--probes is {self.probes}; give 0 for exact gradients, or at least 2 random vectors, whose spread tells the error.")
        if self.text is not None and self.data is not None:
            raise UserError("Both --text and --data were given; give one of them.")

    @property
    def num_rows(self) -> int:
        """Rows to read: at most `MOST_TOKENS` together, and at least one."""
        return max(1, min(self.rows, MOST_TOKENS // self.steps))


@dataclass(frozen=True)
class GradientReport:
    """What was found about all models."""

    models: tuple[ModelGradients, ...]
    verdicts: tuple[Verdict, ...]
    options: GradientOptions


def measure_gradients(names: Sequence[str | Path], options: GradientOptions, overrides: dict[str, Any] | None = None) -> GradientReport:
    """Measure recipes, runs and models; each of `names` is one of them.

    Args:
        names: names or YAML files of recipes, run folders, model folders or Hub ids, at least one.
        options: on what and how.
        overrides: dotted keys and values: any of recipes, of runs and models those of the data section.

    Raises:
        UserError: there is no such recipe, run, model, split or data; the text is empty or too short; a model reads both ways; or a number is
            out of range. All mistakes that need no model are told before any is opened.
    """
    options.check()
    if not names:
        raise UserError("No model was given; give a recipe, a run folder, a model folder or a Hub id.")
    kinds = [_is_recipe(str(name)) for name in names]
    models = [
        _measure_recipe(str(name), options, overrides) if is_recipe else _measure_trained(str(name), options, overrides)
        for name, is_recipe in zip(names, kinds, strict=True)
    ]
    shown = _distinct(models)
    return GradientReport(tuple(shown), judge_claims(shown), options)


def _distinct(models: list[ModelGradients]) -> list[ModelGradients]:
    """The models, of which no two have one name."""
    counts: dict[str, int] = {}
    shown = []
    for model in models:
        counts[model.name] = counts.get(model.name, 0) + 1
        shown.append(model if counts[model.name] == 1 else replace(model, name=f"{model.name} ({counts[model.name]})"))
    return shown


def _is_recipe(name: str) -> bool:
    """Whether `name` is a recipe. Raises `UserError` for what can be neither a recipe nor a model."""
    if Path(name).is_dir():
        return False
    if name in recipe_names() or name.endswith((".yaml", ".yml")):
        return True
    hint = nearest(name, recipe_names())
    if "/" not in name and hint:
        raise UserError(f"There is neither a recipe nor a folder {name!r}; give a recipe, a run folder, a model folder or a Hub id.{hint}")
    model_folder(name)
    return False


def _check_task(recipe: Recipe, name: str) -> None:
    if recipe.task not in TASKS_WITH_GRADIENTS:
        raise UserError(
            f"{name} is of the task {recipe.task}, whose gradients through time are not measured; give one of: {', '.join(TASKS_WITH_GRADIENTS)}."
        )


def _measure_recipe(name: str, options: GradientOptions, overrides: dict[str, Any] | None) -> ModelGradients:
    recipe = load_recipe(name, overrides)
    _check_task(recipe, name)
    check_recipe(recipe)
    if options.data is not None and recipe.task != "causal_lm":
        raise UserError(f"--data goes with trained classifiers; the data of the recipe {name} are changed by --data.source and --data.path.")
    task = TASKS[recipe.task](recipe)
    task.prepare()
    rows = _rows(task, options)
    seeds = _seeds(recipe, options)
    return _describe(Path(name).stem, next(_fresh_models(task, seeds)), rows, (_fresh_stage(task, rows, options, seeds),))


def measure_runs_together(name: str, runs: Sequence[str | Path], options: GradientOptions) -> ModelGradients:
    """What runs of one recipe with other seeds have in common: as they began and as they ended, with means and intervals over the runs.

    Args:
        name: what to call them.
        runs: run folders whose training has ended, at least one.
        options: on what, which is taken from the first run's data, and how; `seeds` is not read.

    Raises:
        UserError: as `measure_gradients`.
    """
    options.check()
    opened = open_model(runs[0], split=options.split, trust_remote_code=options.trust_remote_code)
    _check_task(opened.task.recipe, str(runs[0]))
    rows, seeds = _rows(opened.task, options), [RunFolder(Path(run)).read_recipe().training.seed for run in runs]
    trained = (open_model(run, trust_remote_code=options.trust_remote_code).model.cpu() for run in runs)
    last = int(RunFolder(Path(runs[0])).read_facts()["training"]["steps"])
    stages = (_fresh_stage(opened.task, rows, options, seeds), measure_stage(AT_THE_END, last, trained, rows, options.probes))
    return _describe(name, opened.model, rows, stages)


def _seeds(recipe: Recipe, options: GradientOptions) -> list[int]:
    """The recipe's own seed and those after it."""
    return [(recipe.training.seed + number) % 2**32 for number in range(options.seeds)]


def _fresh_models(task: Task, seeds: Sequence[int]) -> Iterator[PreTrainedModel]:
    """The task's model as training would begin with it, from each seed."""
    for seed in seeds:
        set_seed(seed)
        yield task.build_model()


def _fresh_stage(task: Task, rows: Rows, options: GradientOptions, seeds: Sequence[int]) -> Stage:
    name = AT_THE_BEGINNING if task.recipe.model.pretrained is None else BEFORE_FINE_TUNING
    return measure_stage(name, 0, _fresh_models(task, seeds), rows, options.probes)


def _measure_trained(name: str, options: GradientOptions, overrides: dict[str, Any] | None) -> ModelGradients:
    folder, run = model_folder(name), RunFolder(Path(name))
    is_run = run.facts_file.is_file() and run.recipe_file.is_file()
    given_text = options.text is not None or options.data is not None
    if not is_run and given_text and not (Path(folder) / "recipe.yaml").is_file():
        return _measure_foreign(name, folder, options)
    data = None if options.data is None or options.data in SOURCES or not _classifies(folder) else options.data
    opened = open_model(name, data, split=options.split, overrides=overrides, trust_remote_code=options.trust_remote_code)
    _check_task(opened.task.recipe, name)
    model = opened.model.cpu()
    rows = _rows(opened.task, replace(options, data=None, split=opened.split) if data else options)
    step = int(run.read_facts()["training"]["steps"]) if is_run else None  # a run whose model is there has ended
    stages: list[Stage] = []
    notes: list[str] = []
    if step is not None:
        stages.append(_fresh_stage(opened.task, rows, options, _seeds(opened.task.recipe, options)))
        kept, notes = _checkpoints(run, step)
        for checkpoint, at in kept:
            stages.append(measure_stage(f"step {at:,}", at, [_restored(opened.task, checkpoint)], rows, options.probes))
    stages.append(measure_stage(AT_THE_END, step, [model], rows, options.probes))
    return _describe(shown_name(name), model, rows, tuple(stages), tuple(notes))


def _classifies(folder: str) -> bool:
    """Whether the model in `folder` was saved as a classifier of texts; False for a Hub id, which is told when it is opened."""
    file = Path(folder) / "config.json"
    saved: list[str] = (json.loads(file.read_text(encoding="utf-8")).get("architectures") or []) if file.is_file() else []
    return any(name.endswith("ForSequenceClassification") for name in saved)


def _measure_foreign(name: str, folder: str, options: GradientOptions) -> ModelGradients:
    """A model that was not trained here, on the text that was given."""
    model, tokenizer = load_model(folder, trust_remote_code=options.trust_remote_code)
    kind = type(model).__name__
    is_classifier = kind.endswith("ForSequenceClassification")
    if not is_classifier and not model.can_generate():
        raise UserError(f"{name} is a {kind}, which neither continues a text nor classifies it; give a causal language model or a text classifier.")
    if model.config.is_encoder_decoder:
        raise UserError(f"{name} is an encoder-decoder, whose gradients through time are not measured; give a causal language model or a classifier.")
    rows = _given_rows(tokenizer, options, is_classifier=is_classifier)
    return _describe(shown_name(name), model, rows, (measure_stage(AT_THE_END, None, [model], rows, options.probes),))


def _rows(task: Task, options: GradientOptions) -> Rows:
    """The rows of the task's prepared data, or of the text that was given."""
    is_classifier = task.recipe.task == "text_classification"
    if options.text is not None or options.data is not None:
        return _given_rows(task.tokenizer, options, is_classifier=is_classifier)
    splits = task.prepared.splits
    if options.split not in splits:
        raise UserError(f"There is no split {options.split!r}; choose from: {', '.join(splits)}.{nearest(options.split, splits)}")
    origin = f"the {options.split} split of {task.prepared.facts['name']}"
    if is_classifier:
        return texts_with_classes(splits[options.split], options.steps, options.num_rows, origin)
    return windows(splits[options.split].tokens, options.steps, options.num_rows, origin)


def _given_rows(tokenizer: PreTrainedTokenizerBase, options: GradientOptions, *, is_classifier: bool) -> Rows:
    """Rows of --text or --data."""
    if options.data is not None and is_classifier:
        raise UserError("--data holds text without classes for a classifier that has no recipe; give --text, whose likeliest class is then taken.")
    origin = "the given text" if options.text is not None else Path(str(options.data)).name
    text = options.text if options.text is not None else read_text_of(str(options.data), options.split)
    rows = windows(text_tokens(tokenizer, text), options.steps, options.num_rows, origin)
    return Rows(rows.input_ids, None, f"{origin}, for the class that the model finds likeliest") if is_classifier else rows


def _checkpoints(run: RunFolder, last_step: int) -> tuple[list[tuple[Path, int]], list[str]]:
    """The checkpoints of a run between its beginning and its end with their steps, and what a reader has to know of the others."""
    kept, notes = [], []
    for checkpoint in list_checkpoints(run.checkpoints):
        facts: dict[str, Any] = json.loads((checkpoint / "checkpoint.json").read_text(encoding="utf-8"))["progress"]
        if not (checkpoint / CHECKPOINT_WEIGHTS).is_file():
            notes.append(f"The checkpoint {checkpoint.name} has shares of the weights only, and was left out.")
        elif 0 < facts["step"] != last_step and not facts["micro_step"]:
            kept.append((checkpoint, int(facts["step"])))
    return kept, notes


def _restored(task: Task, checkpoint: Path) -> PreTrainedModel:
    """The task's model with the weights of a checkpoint."""
    model = task.build_model()
    load_weights(model, str(checkpoint / CHECKPOINT_WEIGHTS))
    return model


def _describe(name: str, model: PreTrainedModel, rows: Rows, stages: tuple[Stage, ...], notes: tuple[str, ...] = ()) -> ModelGradients:
    config = model.config
    is_recurrent = config.model_type == "recurrent"
    has_heads = isinstance(getattr(config, "num_attention_heads", None), int)  # absent from the configs of models without attention
    kind = str(config.cell_type) if is_recurrent else "attention" if has_heads else "other"
    layers = "layer" if config.num_hidden_layers == 1 else "layers"
    described = (
        f"{type(model).__name__} ({kind}), {model.num_parameters():,} parameters, {config.num_hidden_layers} {layers} of {config.hidden_size} units; "
        f"{len(rows.input_ids)} rows of {rows.input_ids.shape[1]:,} tokens from {rows.origin}"
    )
    if is_recurrent and config.bidirectional:
        notes = (*notes, "This model reads both ways, so its states have no gradient back in time; the gradient of its loss is shown alone.")
    return ModelGradients(name, kind, described, stages, notes)
