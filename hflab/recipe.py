"""A recipe: everything that decides a training run, as dataclasses read from YAML.

    recipe = load_recipe("char_lstm_shakespeare", {"training.learning_rate": "1e-3"})

A recipe is a name of `hflab/recipes/`, or a path to a YAML file. Keys are dotted (`section.key`); a key that does not exist and a value
of the wrong type or outside its range raise `UserError` before any work. This module knows nothing about models, data or training:
choices that only they know (cells, sources, tasks) are checked by `hflab.training.tasks.check_recipe`.
"""

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Union

import yaml

from .errors import UserError, nearest

ALL_BUT_HEAD = "all_but_head"  # the word of model.freeze that is no pattern


def option(default: Any, help: str, low: float | None = None, high: float | None = None) -> Any:  # noqa: A002 - argparse's word
    """A recipe key: its default, its one-line description, and the closed range of a number."""
    metadata = {"help": help, "low": low, "high": high}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(kw_only=True)
class DataSection:
    """Where the text or the examples come from, how they are split, and how they are laid out in batches."""

    source: str = option("text", "data source; `hflab recipes --sources` lists them")
    path: str | None = option(None, "file or folder of .txt, .jsonl, .csv, .tsv or .parquet (source: text; without .txt, source: examples)")
    dataset: str | None = option(None, "Hub data set id (source: hub)")
    config_name: str | None = option(None, "configuration of the Hub data set")
    revision: str | None = option(None, "revision of the Hub data set")
    streaming: bool = option(False, "read the Hub data set as a stream; needs max_characters")
    text_column: str = option("text", "column that holds the text (.jsonl, .csv, .tsv, .parquet, hub)")
    source_column: str = option("source", "column of the texts to read (seq2seq; sources examples and hub)")
    target_column: str = option("target", "column of the texts to write (seq2seq; sources examples and hub)")
    tokens_column: str = option("tokens", "column of the lists of words (token_classification; sources examples and hub)")
    label_column: str | None = option(None, "column of the class, or of a class per word; default: label, or labels (sources examples and hub)")
    audio_column: str = option("audio", "column of the sound files (speech_recognition; sources speech and hub)")
    speaker_column: str | None = option(None, "column of the speakers, none of whom is then in two splits (sources speech and hub)")
    condition_column: str | None = option(None, "column of a condition, such as the room, that figures are given for (sources speech and hub)")
    sentences: str = option("digits", "what is said: digits, commands, or a text file with a sentence on each line (source: synthetic_speech)")
    num_clips: int = option(2400, "clips to train on (source: synthetic_speech)", low=8)
    synthesis_seed: int = option(1, "seed of voices, sentences and noise (source: synthetic_speech)", 0, 2**32 - 1)
    min_clip_seconds: float = option(0.1, "shorter clips are left out of training (speech_recognition)", low=0)
    max_clip_seconds: float = option(30.0, "longer clips are left out of training (speech_recognition)", low=0.1)
    speed_percents: list[int] = option([100], "training clips are heard at one of these speeds, drawn anew each time (speech_recognition)")
    noise_probability: float = option(0.0, "share of training clips that get noise of 5 to 30 dB, drawn anew each time (speech_recognition)", 0, 1)
    join_probability: float = option(
        0.0, "chance that another training clip, and then another, follows after a pause: for models that are to hear long recordings", 0, 1
    )
    stress: bool = option(False, "phonemes with their stress digit, 69 of them instead of 39 (source: cmudict)")
    examples_per_class: int | None = option(None, "train on so many examples of each class (text_classification)", low=1)
    label_fraction: float | None = option(None, "train on this share of the examples of each class (text_classification)", 0, 1)
    label_seed: int = option(1, "seed of the draw by examples_per_class or label_fraction", 0, 2**32 - 1)
    license: str | None = option(None, "licence of the text, as an SPDX id in lower case; goes into the card")
    language: str | None = option(None, "language of the text, as an ISO 639 code; goes into the card")
    max_characters: int | None = option(None, "read at most this many characters", low=1)
    validation_fraction: float = option(0.1, "share held out for validation, where the source has no split of its own", 0, 0.9)
    test_fraction: float = option(0.0, "share held out for test, likewise", 0, 0.9)
    split_by: Literal["position", "document"] = option(
        "position", "position: the text is cut once, training first; document: whole documents, drawn by a hash"
    )
    layout: Literal["lanes", "windows"] = option(
        "lanes", "lanes: contiguous text with carried state (truncated back-propagation); windows: shuffled, each from a zero state"
    )
    sequence_length: int = option(128, "tokens per window, the length of back-propagation through time", low=1)
    max_source_tokens: int = option(256, "most tokens of an input of tasks with labelled examples; what is longer is cut at its end", low=4)
    max_target_tokens: int | None = option(None, "likewise of a target (seq2seq); default: as many as of an input", low=4)
    mask_probability: float = option(
        0.15, "share of the tokens, or frames if no two spans met, to hide and predict (masked_lm, speech_pretraining: 0.65 is usual)", 0.01, 0.9
    )
    reset_at_documents: bool = option(True, "each document begins with a zero state")
    cache_dir: str | None = option(None, "folder of the tokenised text; default: hflab's folder in the user's cache")


@dataclass(kw_only=True)
class ProcessorSection:
    """How text becomes tokens."""

    tokenizer: str = option("character", "character, byte_bpe, word or symbols (trained on the training split), or a Hub id or folder")
    vocab_size: int | None = option(None, "most tokens a trained vocabulary may have; default: all characters, 8,000 otherwise", low=8)
    min_frequency: int = option(1, "a trained vocabulary leaves out what occurs less often", low=1)
    normalizer: str = option("basic", "what becomes of transcripts before they are learnt and scored: none, basic, english or characters")


@dataclass(kw_only=True)
class LoraSection:
    """Low-rank adapters beside frozen weights (Hu et al. 2021, arXiv:2106.09685), through peft."""

    rank: int = option(8, "width of the adapter's two matrices", low=1)
    alpha: float = option(16.0, "the adapter's output is scaled by alpha / rank", low=0)
    dropout: float = option(0.0, "dropout of the adapter's input", 0, 0.99)
    target_modules: list[str] = option([], "last parts of the names of the layers that get one; empty: attention or recurrent projections")
    merge: bool = option(True, "save the model with the adapter added to its weights; false: save the adapter alone, which names its base")


@dataclass(kw_only=True)
class ModelSection:
    """Which model: a family with its config, or a pretrained one. Any other key of the section is a field of the model's config."""

    family: str | None = option(None, "model family; its config's fields are keys of this section")
    pretrained: str | None = option(None, "start from this Hub id or folder instead of random weights")
    trust_remote_code: bool = option(False, "run the code that `pretrained` brings; only for a source you trust")
    new_head: bool = option(False, "begin with a fresh head for the labels of the data; everything else as loaded (pretrained)")
    freeze: list[str] = option([], "parameters that stay as loaded: name patterns such as *.embeddings.*, or all_but_head (pretrained)")
    freeze_feature_encoder: bool | None = option(
        None, "keep the convolutions that read the waveform as loaded; default: yes, where a pretrained model learns transcripts (pretrained)"
    )
    lora: LoraSection | None = option(None, "train low-rank adapters instead of the weights (pretrained; extra: lora); {} takes the defaults")
    config: dict[str, Any] = option({}, "fields of the config, written directly in this section; a pretrained model keeps the shape of its weights")


@dataclass(kw_only=True)
class TrainingSection:
    """The loop: budget, batches, optimizer, schedule, checkpoints."""

    num_steps: int | None = option(None, "budget: optimizer steps", low=1)
    num_epochs: float | None = option(None, "budget: passes over the training split", low=0)
    max_seconds: float | None = option(None, "budget: seconds of training, evaluation and checkpoints left out", low=0)
    batch_size: int = option(32, "sequences per optimizer step, over all processes and accumulation steps", low=1)
    gradient_accumulation_steps: int = option(1, "forward and backward passes per optimizer step", low=1)
    max_gumbel_temperature: float = option(2.0, "temperature at which codes are drawn in the first step (speech_pretraining)", 1e-3)
    min_gumbel_temperature: float = option(0.5, "lowest temperature of it (speech_pretraining)", 1e-3)
    gumbel_temperature_decay: float = option(0.999995, "the temperature of a step is that of the one before times this (speech_pretraining)", 0, 1)
    state_reset_probability: float = option(
        0.0, "chance that a lane begins a window with a zero state, which keeps the model good at the beginning of a text", 0, 1
    )
    optimizer: str = option("adamw", "adamw, sgd, muon (hidden matrices; AdamW for the rest), or a class name of torch.optim")
    learning_rate: float = option(1e-3, "peak learning rate", low=0)
    weight_decay: float = option(0.0, "decoupled weight decay of matrices; biases, norms and embeddings have none", low=0)
    optimizer_arguments: dict[str, Any] = option({}, "further arguments of the optimizer, such as {betas: [0.9, 0.99]}")
    schedule: Literal["constant", "linear", "cosine"] = option("cosine", "learning rate over the budget, after the warm-up")
    warmup_steps: int = option(0, "steps over which the learning rate rises linearly from zero", low=0)
    min_learning_rate_ratio: float = option(0.0, "learning rate at the end of the budget, relative to the peak", 0, 1)
    layer_learning_rate_decay: float = option(
        1.0, "each block's learning rate is that of the block after it times this: the nearer to the input, the slower", 0, 1
    )
    unfreeze_every_steps: int | None = option(
        None, "train the last block group alone, and one more, from the last to the first, every so many steps (gradual unfreezing)", low=1
    )
    max_grad_norm: float | None = option(1.0, "clip the gradient's norm to this; null: no clipping", low=0)
    averaging: Literal["none", "ema", "asgd"] = option(
        "none", "evaluate and save averaged weights: exponential moving average, or ASGD (plain mean of the last steps)"
    )
    averaging_decay: float = option(0.999, "decay per step of the moving average", 0, 1)
    averaging_start: float = option(0.5, "share of the budget after which averaging begins", 0, 1)
    early_stopping_patience: int | None = option(
        None, "stop after this many evaluations without a better figure (the loss; seq2seq: the headline)", low=1
    )
    mixed_precision: Literal["no", "bf16", "fp16"] = option("no", "automatic mixed precision of Accelerate")
    device: Literal["auto", "cpu", "cuda", "mps"] = option("auto", "device; auto takes the best there is")
    seed: int = option(1, "seed of every random number of the run", 0, 2**32 - 1)
    log_every_steps: int = option(20, "steps between lines of metrics.jsonl", low=1)
    gradient_norms_every_steps: int | None = option(
        None, "steps between lines of metrics.jsonl with the gradient's norm of each group of parameters; default: none", low=1
    )
    evaluate_every_steps: int | None = option(None, "steps between evaluations; default: a tenth of num_steps; a last one always", low=1)
    checkpoint_every_steps: int | None = option(None, "steps between checkpoints; default: at evaluations and on interruption", low=1)
    keep_checkpoints: int = option(2, "most recent checkpoints kept", low=1)


@dataclass(kw_only=True)
class EvaluationSection:
    """Evaluation while training and after it."""

    batch_size: int = option(32, "lanes the held-out text is cut into (carried state: the figure depends on it a little), or rows at a time", low=1)
    max_tokens: int | None = option(None, "most tokens of a text per evaluation while training; the last evaluation takes all", low=1)
    max_examples: int | None = option(None, "most labelled examples per evaluation while training; the last evaluation takes all", low=1)
    num_beams: int = option(
        1, "beams of the decoding of held-out rows (seq2seq: and of the saved model; speech: with its language model if it has one); 1: greedy", low=1
    )
    sample_examples: int = option(3, "held-out examples shown with prediction and target while training; 0: none", low=0)
    sample_prompt: str = option("", "prompt of the text samples shown while training; empty: a piece of the held-out text")
    sample_tokens: int = option(160, "tokens per sample; 0: none", low=0)
    sample_temperature: float = option(0.8, "sampling temperature of the samples", 0, 10)


@dataclass(kw_only=True)
class PublishSection:
    """What the model card says beyond measured facts."""

    repo_id: str | None = option(None, "Hub repository the model is meant for, user/name")
    license: str = option("apache-2.0", "licence of the model, as the Hub writes it")
    description: str | None = option(None, "own words at the head of the card")
    intended_use: str | None = option(None, "own words on intended use")
    limitations: str | None = option(None, "own words on limitations")
    try_usage: bool = option(True, "run the usage example after training, in a process of its own (some 6 s); false: it is run when published")


@dataclass(kw_only=True)
class TrackingSection:
    """Experiment trackers, through Accelerate."""

    trackers: list[str] = option([], "any of trackio and tensorboard (extra: tracking)")
    project: str = option("hflab", "project name the trackers use")
    country: str | None = option(
        None, "where the electricity is from, such as DEU (ISO 3166-1 alpha-3): estimate energy and CO2, without network (extra: energy)"
    )


@dataclass(kw_only=True)
class Recipe:
    """A run, complete. `task` names an entry of `hflab.training.tasks.TASKS`."""

    task: str = option("causal_lm", "what is trained")
    description: str = option("", "one line on what the recipe shows")
    data: DataSection = field(default_factory=DataSection)
    processor: ProcessorSection = field(default_factory=ProcessorSection)
    model: ModelSection = field(default_factory=ModelSection)
    training: TrainingSection = field(default_factory=TrainingSection)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)
    publish: PublishSection = field(default_factory=PublishSection)
    tracking: TrackingSection = field(default_factory=TrackingSection)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as YAML's own types, model config fields written directly in the model section."""
        values = dataclasses.asdict(self)
        values["model"].update(values["model"].pop("config"))
        return values

    def public(self) -> "Recipe":
        """The recipe as it may be published: no cache folder, and of an absolute path its last part only."""
        paths = {key: _last_part(getattr(self.data, key)) for key in ("path", "dataset", "sentences")}
        data = dataclasses.replace(self.data, cache_dir=None, **paths)
        return dataclasses.replace(self, data=data, model=dataclasses.replace(self.model, pretrained=_last_part(self.model.pretrained)))

    def save(self, path: Path) -> None:
        """Write the recipe, every key resolved, as UTF-8 YAML."""
        path.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")


def _last_part(path: Any) -> Any:
    """Of a path, or None."""
    return Path(path).name if path is not None and Path(path).expanduser().is_absolute() else path


def recipe_names() -> list[str]:
    """Names of the recipes that come with hflab."""
    folder = resources.files("hflab") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read the recipe `name` (a packaged name or a YAML file) and apply dotted `overrides`.

    Raises:
        UserError: the recipe does not exist or is not UTF-8 YAML; a key is unknown (the nearest is named); a value has the wrong type
            or lies outside its range; no budget, or fractions that leave nothing to train on.
    """
    values = _read_yaml(name)
    for key, value in (overrides or {}).items():
        _set_dotted(values, key, value)
    return parse_recipe(values)


def parse_recipe(values: dict[str, Any]) -> Recipe:
    """Turn nested plain values into a checked `Recipe`. Raises `UserError` as `load_recipe` does."""
    recipe = _parse_dataclass(Recipe, values, prefix="")
    _check_combinations(recipe)
    return recipe


def recipe_keys() -> list[tuple[str, str, Any, str]]:
    """Every dotted key with its type, default and description, in the order of the dataclasses."""
    rows = []
    for name, section_type in typing.get_type_hints(Recipe).items():
        if not dataclasses.is_dataclass(section_type):
            rows.append(_describe_key(Recipe, name, prefix=""))
            continue
        rows += [_describe_key(section_type, key.name, f"{name}.") for key in dataclasses.fields(section_type)]
    rows += [_describe_key(LoraSection, key.name, "model.lora.") for key in dataclasses.fields(LoraSection)]
    return [row for row in rows if row[0] != "model.config"]


def _describe_key(owner: Any, name: str, prefix: str) -> tuple[str, str, Any, str]:
    entry = next(entry for entry in dataclasses.fields(owner) if entry.name == name)
    default = getattr(owner(), name)
    return prefix + name, _type_name(typing.get_type_hints(owner)[name]), default, entry.metadata["help"]


def _read_yaml(name: str | Path) -> dict[str, Any]:
    path = Path(name)
    packaged = resources.files("hflab") / "recipes" / f"{name}.yaml"
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise UserError(f"The recipe file {str(path)!r} does not exist; give a YAML file or one of: {', '.join(recipe_names())}.")
        raw = path.read_bytes()
    elif packaged.is_file():
        raw = packaged.read_bytes()
    else:
        names = recipe_names()
        raise UserError(f"There is no recipe {str(name)!r}; give a .yaml file or one of: {', '.join(names)}.{nearest(str(name), names)}")
    try:
        values = yaml.safe_load(raw.decode("utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"The recipe {str(name)!r} is not valid UTF-8 YAML: {error}. Compare it with one printed by `hflab recipes NAME`.") from None
    if not isinstance(values, dict):
        raise UserError(f"The recipe {str(name)!r} holds {type(values).__name__}, not sections; it needs keys such as task, data and training.")
    return values


def _set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"--{key} cannot be set: {section!r} is a value, not a section.")
    values[last] = value


def _plain_value(value: Any) -> Any:
    """Read text as YAML would, with 1e-3 as a number too; what is no YAML means itself."""
    if not isinstance(value, str):
        return value
    try:
        return float(value) if not value.lstrip("+-").isdigit() else int(value)
    except ValueError:
        pass
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def _parse_dataclass(cls: Any, values: Any, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(f"The section {prefix.rstrip('.') or 'recipe'} is {values!r}, not a set of keys; write `key: value` lines below it.")
    hints = typing.get_type_hints(cls)
    known, extra = {}, {}
    for key, value in values.items():
        if key in hints and not (cls is ModelSection and key == "config"):
            known[key] = _parse_value(cls, hints, key, value, prefix)
        elif cls is ModelSection:
            extra[key] = _plain_value(value)  # a field of the family's config, checked by the family
        else:
            raise UserError(f"The recipe has no key {prefix + str(key)!r}.{_nearest_key(str(key), prefix, hints)}")
    if cls is ModelSection:
        known["config"] = extra
    return cls(**known)


def _nearest_key(key: str, prefix: str, hints: dict[str, Any]) -> str:
    here = nearest(key, hints)
    if here:
        return here
    elsewhere = nearest(key, [name.rpartition(".")[2] for name, *_ in recipe_keys()])
    if not elsewhere:
        return f" Keys here: {', '.join(hints)}."
    found = elsewhere.split("'")[1]
    full = next(name for name, *_ in recipe_keys() if name.rpartition(".")[2] == found)
    return f" Did you mean {full!r}?"


def _parse_value(cls: Any, hints: dict[str, Any], key: str, value: Any, prefix: str) -> Any:
    hint = hints[key]
    if dataclasses.is_dataclass(hint):
        return _parse_dataclass(hint, {} if value is None else value, prefix=f"{key}.")
    if hint == LoraSection | None:
        value = _plain_value(value)
        return None if value is None else _parse_dataclass(LoraSection, value, prefix=f"{prefix}{key}.")
    parsed = _convert(value, hint, prefix + key)
    metadata = next(entry for entry in dataclasses.fields(cls) if entry.name == key).metadata
    low, high = metadata["low"], metadata["high"]
    if parsed is not None and ((low is not None and not parsed >= low) or (high is not None and not parsed <= high)):
        limits = f"at least {low}" if high is None else f"from {low} to {high}"
        raise UserError(f"{prefix + key} is {parsed}; it must be {limits}.")
    return parsed


def _convert(value: Any, hint: Any, key: str) -> Any:
    """Return `value` as the type `hint`. Text, as the command line gives it, is read as YAML unless text is wanted. Raises `UserError`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        inner = next(a for a in arguments if a is not type(None))
        return None if value is None or value in ("null", "none") else _convert(value, inner, key)
    if origin is Literal:
        value = "no" if value is False and "no" in arguments else value  # YAML reads a bare `no` as false
        if value not in arguments:
            raise UserError(f"{key} is {value!r}; choose from: {', '.join(arguments)}.{nearest(str(value), arguments)}")
        return value
    if hint is str:
        return "" if value is None else str(value) if isinstance(value, (str, int, float)) else _refuse(value, hint, key)
    value = _plain_value(value)
    if origin is list and isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if origin is list and type(value) is arguments[0] is int:  # one number of the command line
        value = [value]
    if origin is list and isinstance(value, list):
        return [_convert(part, arguments[0], key) for part in value]
    if hint is float and type(value) is int:
        value = float(value)
    if hint is int and type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not (origin or hint):  # an exact match: a bool is no whole number
        _refuse(value, hint, key)
    return value


def _refuse(value: Any, hint: Any, key: str) -> typing.NoReturn:
    raise UserError(f"{key} is {value!r} ({type(value).__name__}); it must be {_type_name(hint)}.")


def _type_name(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if a is type(None) else _type_name(a) for a in arguments)
    if origin is Literal:
        return " | ".join(arguments)
    return {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        list: "a list",
        dict: "a mapping",
        LoraSection: "a section",
    }[origin or hint]


def _check_combinations(recipe: Recipe) -> None:
    training, data = recipe.training, recipe.data
    if training.num_steps is None and training.num_epochs is None and training.max_seconds is None:
        raise UserError("The recipe has no budget: set training.num_steps, training.num_epochs or training.max_seconds.")
    if not training.learning_rate < float("inf"):
        raise UserError(f"training.learning_rate is {training.learning_rate}; it must be a finite number.")
    if data.validation_fraction + data.test_fraction > 0.9:
        total = data.validation_fraction + data.test_fraction
        raise UserError(f"data.validation_fraction + data.test_fraction is {total:g}; leave at least a tenth of the text for training.")
    if training.batch_size % training.gradient_accumulation_steps:
        raise UserError(
            f"training.batch_size is {training.batch_size}, which training.gradient_accumulation_steps "
            f"({training.gradient_accumulation_steps}) does not divide; make it a multiple."
        )
    if (recipe.model.family is None) == (recipe.model.pretrained is None):
        raise UserError("The model section must name either a family or a pretrained model; set model.family or model.pretrained.")
    if recipe.model.pretrained is not None:  # whether it has a field of this name is seen when it is loaded
        known = [key.name for key in dataclasses.fields(ModelSection)]
        for key in recipe.model.config:
            if hint := nearest(key, known):
                raise UserError(f"model.{key} is no key of the model section.{hint}")
    _check_fine_tuning(recipe)


def _check_fine_tuning(recipe: Recipe) -> None:
    """Refuse what cannot be had together about a pretrained model."""
    model, training = recipe.model, recipe.training
    given = {
        "model.new_head": model.new_head,
        "model.freeze": bool(model.freeze),
        "model.freeze_feature_encoder": model.freeze_feature_encoder is not None,
        "model.lora": model.lora is not None,
        "training.unfreeze_every_steps": training.unfreeze_every_steps is not None,
    }
    if model.pretrained is None and any(given.values()):
        raise UserError(f"{_first(given)} is about a pretrained model, and none is named; set model.pretrained, or leave it out.")
    undecided = {
        "model.freeze": bool(model.freeze),
        "model.freeze_feature_encoder": model.freeze_feature_encoder is not None,
        "training.unfreeze_every_steps": training.unfreeze_every_steps is not None,
    }
    if model.lora is not None and any(undecided.values()):
        other = _first(undecided)
        raise UserError(f"model.lora keeps all weights of the model frozen, so {other} has nothing to decide; remove one of the two.")
    if ALL_BUT_HEAD in model.freeze:
        if len(model.freeze) > 1:
            raise UserError(f"model.freeze holds {ALL_BUT_HEAD} and name patterns; give either the one or the others.")
        if training.unfreeze_every_steps:
            raise UserError(f"model.freeze: {ALL_BUT_HEAD} and training.unfreeze_every_steps contradict each other; remove one of the two.")
    if not training.layer_learning_rate_decay > 0:
        raise UserError("training.layer_learning_rate_decay is 0, which would stop all blocks but the last; freeze them by model.freeze instead.")


def _first(given: dict[str, bool]) -> str:
    return next(name for name, present in given.items() if present)
