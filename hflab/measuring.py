"""A model folder, opened with the data and the task that it is measured by.

opened = open_model("runs/char_lstm_shakespeare", split="validation")
figures = opened.evaluate().figures
"""

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SequenceFeatureExtractor,
)
from transformers.utils.hub import cached_file

from .data.examples import COLUMNS, EXAMPLE_SOURCES
from .data.sources import SOURCES
from .data.speech_sources import SPEECH_SOURCES
from .errors import FOLDER_INSTEAD, UserError, cannot_be_loaded, check_choice
from .evaluation.report import Evaluated
from .evaluation.report_files import check_report_file
from .models import register_auto_classes
from .recipe import Recipe, load_recipe, parse_recipe
from .run_folder import RunFolder
from .speech.ctc_beam_search import BeamOptions
from .speech.saved_decoder import load_decoder
from .training.adapters import load_ctc_adapter
from .training.pretrained import UNUSED_PARAMETER, without_loading_report
from .training.task import Task, TrainedProcessor
from .training.tasks import TASKS

_SOURCES: dict[str, Iterable[str]] = {"examples": EXAMPLE_SOURCES, "speech": SPEECH_SOURCES, "text": SOURCES}
COLUMN_KEYS = ("source_column", "target_column", "text_column", "tokens_column", "label_column")
MARKDOWN, HTML = ".md", ".html"  # endings of reports
KEPT_DATA_KEYS = (*COLUMN_KEYS, "max_source_tokens", "max_target_tokens", "sequence_length", "mask_probability")


register_auto_classes()


@dataclass(frozen=True)
class OpenedModel:
    """A model with prepared data: `evaluate` may be called again and again."""

    task: Task
    model: PreTrainedModel
    accelerator: Accelerator
    split: str
    decoder: BeamOptions | None = None
    """The beam search, with a language model, that was saved with a model that hears."""
    is_own_data: bool = True
    """Whether the data are those that the model was trained on, or held out from them."""

    def evaluate(self, *, in_full: bool = True) -> Evaluated:
        """Figures on the split; where not `in_full`, on the part of it that the recipe gives evaluations in training."""
        return self.task.evaluate(self.model, self.accelerator, self.split, in_full=in_full)


def open_model(
    model: str | Path,
    data: str | None = None,
    *,
    split: str = "validation",
    report: Path | None = None,
    overrides: dict[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> OpenedModel:
    """Open a model with the data it is to be measured on; the arguments are those of `hflab.evaluate`, and the report is not written.

    Raises:
        UserError: there is no such model, split or data, or the report cannot be written or is of a kind that the task does not have.
    """
    folder = model_folder(model)
    recipe = _evaluation_recipe(folder, data, overrides or {})
    if report is not None:
        _check_report(report, recipe.task)
    task = TASKS[recipe.task](recipe)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code) if task.has_tokenizer else None
    loaded = _load_weights(folder, task.auto_class(), tokenizer, trust_remote_code=trust_remote_code)
    extractor = load_feature_extractor(folder, trust_remote_code=trust_remote_code) if task.hears else None
    accelerator = Accelerator(cpu=recipe.training.device == "cpu")
    names: Any = loaded.config.id2label
    classes = [names[number] for number in sorted(names)] if task.classifies else None
    decoder = load_saved_decoder(folder) if task.hears else None
    with accelerator.main_process_first():
        task.prepare(TrainedProcessor(tokenizer, classes, extractor, decoder, loaded.config))
    splits = task.prepared.splits
    # with no fraction held out, all of given data is one split, named train
    wanted = "train" if data is not None and (recipe.task == "causal_lm" or split not in splits) else split
    check_choice("The split", wanted, splits)
    return OpenedModel(task, loaded.to(accelerator.device), accelerator, wanted, decoder, data is None)


def _check_report(report: Path, task: str) -> None:
    """Find out before the work what would keep the report from being written. Raises `UserError`."""
    if task == "causal_lm":
        raise UserError("A report lists the worst and best rows, and the text of causal_lm has no rows; leave --report out.")
    if report.suffix.lower() == HTML and task != "speech_recognition":
        raise UserError(f"The report is {str(report)!r}, and only speech_recognition has a page in HTML; give FILE{MARKDOWN} for {task}.")
    check_report_file(report, (MARKDOWN, HTML) if task == "speech_recognition" else (MARKDOWN,))


def model_folder(model: str | Path) -> str:
    """What `from_pretrained` takes for a run folder, a model folder or a Hub id. Raises `UserError` for a folder without a model."""
    path = Path(model)
    if not path.exists():
        if len(path.parts) > 2 or path.is_absolute():  # a Hub id is "name" or "user/name"
            raise UserError(f"There is no folder {path}; give a run folder whose training has ended, a model folder or a Hub id.")
        return str(model)
    for candidate in (path, path / "model"):
        if (candidate / "config.json").is_file():
            return str(candidate)
        if (candidate / "adapter_config.json").is_file():
            if find_spec("peft") is None:
                raise UserError(f"{candidate} holds an adapter, which needs the package peft; install it: pip install 'hflab[lora]'.")
            return str(candidate)
    raise UserError(f"{path} holds no model (no config.json, nor model/config.json); give a run folder, a model folder or a Hub id.")


def shown_name(model: str | Path) -> str:
    """What to call a model on a page: its Hub id, or the name of its folder or run, without the folders above."""
    path = Path(model)
    if not path.exists():
        return str(model)
    path = path.resolve()
    return path.parent.name if path.name == "model" else path.name


def load_headed_model(folder: str, auto_class: Any, *, trust_remote_code: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer, on the CPU.

    Raises:
        UserError: there is no such model, it needs code that is not trusted, or it was saved with another head and would get a random one.
    """
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    return _load_weights(folder, auto_class, tokenizer, trust_remote_code=trust_remote_code), tokenizer


def load_tokenizer(folder: str, *, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of a model. Raises `UserError` if there is none."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise cannot_be_loaded("The model", folder, error, FOLDER_INSTEAD) from None
    except TypeError:  # how tokenizers for CTC answer where there are no files of one, as beside a model that was pre-trained on sound alone
        raise UserError(
            f"The model {folder!r} has no files of a tokenizer, so it cannot write; give a model that was trained on text or transcripts, or train "
            "this one on some (model.pretrained, with model.new_head: true)."
        ) from None
    return tokenizer


def _load_weights(folder: str, auto_class: Any, tokenizer: PreTrainedTokenizerBase | None, *, trust_remote_code: bool) -> PreTrainedModel:
    try:
        with without_loading_report():
            if auto_class is AutoModelForCTC and (Path(folder) / "adapter_config.json").is_file():
                assert tokenizer is not None, "a recogniser writes"
                return load_ctc_adapter(folder, tokenizer, trust_remote_code=trust_remote_code)
            model, report = auto_class.from_pretrained(folder, trust_remote_code=trust_remote_code, output_loading_info=True)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        if "Unrecognized configuration class" in str(error):
            kind, head = AutoConfig.from_pretrained(folder).model_type, auto_class.__name__.removeprefix("AutoModel")
            raise UserError(f"The model {folder!r} is a {kind} model, and there is no {kind} model {head}; take one of another kind.") from None
        raise cannot_be_loaded("The model", folder, error, FOLDER_INSTEAD) from None
    needed = {name for name, _ in model.named_parameters() if name.rpartition(".")[2] != UNUSED_PARAMETER}
    missing = sorted(report["missing_keys"] & needed)
    saved = model.config.architectures or ["another model"]
    # tied weights hide a head that is missing; weights that found no place then tell of the other one
    if missing or (report["unexpected_keys"] and type(model).__name__ not in saved):
        wanting = f" and has no weights for {missing[0]}, which {type(model).__name__} needs here" if missing else f", not as {type(model).__name__}"
        raise UserError(f"The model {folder!r} was saved as {', '.join(saved)}{wanting}; give a model that was trained for this.")
    loaded: PreTrainedModel = model
    return loaded


def load_feature_extractor(folder: str, *, trust_remote_code: bool) -> SequenceFeatureExtractor:
    """What the model makes of waveforms. Raises `UserError` if the folder has none."""
    try:
        extractor: SequenceFeatureExtractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise cannot_be_loaded("The feature extractor of the model", folder, error, FOLDER_INSTEAD) from None
    return extractor


def load_saved_decoder(folder: str) -> BeamOptions | None:
    """The beam search and language model that were saved with the model in `folder`, a folder or Hub id; None if there are none."""

    def find(name: str) -> Path | None:
        try:
            return Path(str(cached_file(folder, name)))
        except OSError:
            return None

    return load_decoder(find)


def _evaluation_recipe(folder: str, data: str | None, overrides: dict[str, Any]) -> Recipe:
    """The recipe beside the model, its data section replaced when `data` is given."""
    for key in overrides:
        if key.split(".")[0] not in {"data", "evaluation", "training"}:
            raise UserError(f"--{key} has no effect on an evaluation; keys of data, evaluation and training.device have.")
    known = _trained_recipe(folder)
    if data is None:
        if known is None:
            raise UserError(
                f"The model {folder!r} cannot be found, or has no recipe.yaml that says which data it was trained on; "
                "give a run folder, a model folder or a Hub id, or give --data too."
            )
        return load_recipe(known, overrides)
    trained = load_recipe(known) if known is not None else None
    task = trained.task if trained is not None else _untold_task(folder)
    own = "examples" if task in COLUMNS else "speech" if TASKS[task].hears else "text"  # the source of files of the user
    sources = list(_SOURCES[own])
    if data not in sources and not os.path.exists(data):
        raise UserError(f"There is neither a file nor a source {data!r}; give a path or one of: {', '.join(sources)}.")
    section: dict[str, Any] = {"source": data} if data in sources else {"source": own, "path": data}
    values: dict[str, Any] = {"task": task, "model": {"pretrained": folder}, "training": {"num_steps": 1}}
    values["data"] = section | {"validation_fraction": 0.0, "test_fraction": 0.0}
    if trained is not None and task != "causal_lm":  # rows are cut and columns are named as they were in training
        values["data"] |= {
            key: getattr(trained.data, key) for key in KEPT_DATA_KEYS if key not in COLUMN_KEYS or section["source"] in ("examples", "hub")
        }
        values["processor"] = asdict(trained.processor)
        values["evaluation"] = asdict(trained.evaluation)
    for key, value in overrides.items():
        name, _, field = key.partition(".")
        values.setdefault(name, {})[field] = value
    return parse_recipe(values)


def _untold_task(folder: str) -> str:
    """The task of a model that was not trained here: speech recognition for those with a head for CTC, else language modelling."""
    try:
        made_as = AutoConfig.from_pretrained(folder).architectures or []
    except (OSError, ValueError):  # who opens the model says what is wrong with it
        made_as = []
    return "speech_recognition" if any(name.endswith("ForCTC") for name in made_as) else "causal_lm"


def _trained_recipe(folder: str) -> str | Path | None:
    """The file of the recipe that the model was trained by, None where there is none."""
    run = RunFolder(Path(folder).parent)
    if run.facts_file.is_file():  # the run's own recipe knows where the data are; the model's, made to be published, may not
        return run.recipe_file
    try:
        return str(cached_file(folder, "recipe.yaml"))
    except OSError:
        return None
