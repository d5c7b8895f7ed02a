"""A pretrained model, by Hub id or folder, made ready to be trained: the right head, what is frozen, adapters. Knows nothing about data or the loop.

    model = load_pretrained_model(recipe.model, "ForSequenceClassification", label_names=["no", "yes"])

The parameters that will be trained are those with `requires_grad`. Everything is a function of the folder, the section and the state of torch's
generator, so that a resumed run builds the same model again.
"""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.processors import close_with_sep
from ..errors import UserError, cannot_be_loaded, check_choice, nearest
from ..evaluation.model_properties import evaluation_mode
from ..recipe import ModelSection
from .adapters import add_adapter
from .freezing import freeze, head_names

logger = logging.getLogger(__name__)

# head of a family: the Auto class that opens any model with that head
AUTO_CLASSES = {
    "Model": "AutoModel",
    "ForCausalLM": "AutoModelForCausalLM",
    "ForConditionalGeneration": "AutoModelForSeq2SeqLM",
    "ForCTC": "AutoModelForCTC",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForPreTraining": "AutoModelForPreTraining",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
}
MOST_NAMES = 3  # of parameters in a message
# SpecAugment's vector for hidden frames: speech models that were trained without it have none in their file, and no output depends on it
UNUSED_PARAMETER = "masked_spec_embed"


def load_pretrained_model(
    section: ModelSection,
    head: str,
    *,
    label_names: Sequence[str] | None = None,
    vocab_size: int | None = None,
    config_defaults: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """Load `section.pretrained` in float32 on the CPU, with the head, the frozen parameters and the adapter that the section asks for.

    Args:
        section: names the model; its `new_head`, `freeze` and `lora` are carried out, and its `config` replaces fields of the model's own.
        head: a key of `AUTO_CLASSES`.
        label_names: the classes of a classifier, in the order of their numbers.
        vocab_size: tokens that the model must know; its embedding grows where it has fewer.
        config_defaults: fields of the config that get other values than in the folder where the section does not set them and the model has them.

    Raises:
        UserError: there is no such model, it cannot have this head, its own head does not fit and `new_head` is not set, it is to read from
            left to right and does not, or `freeze` or `lora` do not fit it.
    """
    assert section.pretrained is not None
    folder = folder_of(section.pretrained)
    config = load_pretrained_config(section, config_defaults)
    own_labels = list((config.id2label or {}).values()) if label_names is not None else []
    if label_names is not None:
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: number for number, name in enumerate(label_names)}
    model, fresh = _load_weights(folder, section, head, config)
    if section.config and (lost := sorted(fresh - head_names(model))):
        raise UserError(
            f"model.{', model.'.join(section.config)}: with {_listed(list(map(str, section.config.values())))} the weights of {section.pretrained!r} "
            f"no longer fit ({_listed(lost)}); leave out what changes the shape of the model."
        )
    if section.new_head:
        fresh |= _renew_head(model, fresh)
    else:
        _check_head_fits(section.pretrained, fresh, own_labels, list(label_names or []))
    if head == "ForCausalLM":
        _check_reads_left_to_right(model, section.pretrained)
    if vocab_size is not None and vocab_size > _num_embeddings(model):
        model.resize_token_embeddings(vocab_size)
    if section.lora is not None:
        add_adapter(model, section.lora, head, fresh, folder)
    _freeze_feature_encoder(model, section, head)
    if section.freeze:
        freeze(model, section.freeze, fresh)
    return model


def load_pretrained_config(section: ModelSection, defaults: dict[str, Any] | None = None) -> PreTrainedConfig:
    """The config of `section.pretrained` with the fields that the section sets; `defaults` are for others, where the model has them."""
    assert section.pretrained is not None
    config = _load_config(folder_of(section.pretrained), section)
    known = config.to_dict()
    for name, value in (defaults or {}).items():
        if name in known and name not in section.config:
            setattr(config, name, value)
    _set_fields(config, section.config)
    return config


def _freeze_feature_encoder(model: PreTrainedModel, section: ModelSection, head: str) -> None:
    """Keep the convolutions that read the waveform as they were pre-trained, if the section says so or it says nothing and transcripts are learnt.

    They were trained on far more sound than there are transcripts of; wav2vec 2.0's own fine-tuning keeps them (Baevski et al. 2020, section 4.3).
    By the model's own method, which also spares it the gradient of its input.
    """
    wanted, method = section.freeze_feature_encoder, getattr(model, "freeze_feature_encoder", None)
    if wanted and method is None:
        raise UserError(
            f"model.freeze_feature_encoder is true, but {type(model).__name__} has no convolutions over the waveform that it could freeze; "
            "name its parameters by model.freeze."
        )
    if method is not None and (head == "ForCTC" if wanted is None else wanted):
        method()


def load_pretrained_tokenizer(section: ModelSection) -> PreTrainedTokenizerBase:
    """The tokenizer of `section.pretrained`; BERT's close a text with their sep token. Raises `UserError` when there is none."""
    assert section.pretrained is not None
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder_of(section.pretrained), trust_remote_code=section.trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise cannot_be_loaded("The tokenizer of model.pretrained", section.pretrained, error, "--model.pretrained FOLDER") from None
    close_with_sep(tokenizer, section.pretrained)
    return tokenizer


def folder_of(name: str) -> str:
    """What `from_pretrained` takes for a Hub id, a model folder or a run folder. Raises `UserError` for a folder with an adapter only."""
    path = Path(name).expanduser()
    if not path.is_dir():
        return name
    found = next((folder for folder in (path, path / "model") if (folder / "config.json").is_file()), None)
    if found is not None:
        return str(found)
    if any((folder / "adapter_config.json").is_file() for folder in (path, path / "model")):
        raise UserError(
            f"model.pretrained is {name!r}, which holds an adapter and no model; train it anew with model.lora.merge: true, or give its base."
        )
    raise UserError(f"model.pretrained is {name!r}, a folder without config.json, so there is no model in it; give a model folder or a Hub id.")


def _load_config(folder: str, section: ModelSection) -> PreTrainedConfig:
    assert section.pretrained is not None
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=section.trust_remote_code)
    except (OSError, ValueError) as error:
        raise cannot_be_loaded("model.pretrained", section.pretrained, error, "--model.pretrained FOLDER") from None


def _set_fields(config: PreTrainedConfig, fields: dict[str, Any]) -> None:
    """Replace fields of a model's config. Raises `UserError` for one that it has not, or a value that it refuses."""
    known = [name for name in config.to_dict() if not name.startswith("_")]
    sections = [field.name for field in dataclasses.fields(ModelSection)]
    for name, value in fields.items():
        if name not in known:
            hint = nearest(name, [*sections, *known])
            raise UserError(f"model.{name} is neither a key of the model section nor a field of the config of {config.model_type} models.{hint}")
        try:
            setattr(config, name, value)
            config.validate()
        except (StrictDataclassError, ValueError, TypeError) as error:
            raise UserError(f"model.{name}: {(str(error).splitlines() or ['not a value of this field'])[-1].strip()}") from None


@contextmanager
def without_loading_report() -> Iterator[None]:
    """Keep transformers from printing a table of weights that are missing or left over: what matters of it is read from its report."""
    logger = logging.getLogger("transformers.modeling_utils")
    # a filter and not a level: with a level of its own the logger has transformers warn of weights that are not sharded
    logger.addFilter(_refuse)
    try:
        yield
    finally:
        logger.removeFilter(_refuse)


def _refuse(record: logging.LogRecord) -> bool:
    return False


def _load_weights(folder: str, section: ModelSection, head: str, config: PreTrainedConfig) -> tuple[PreTrainedModel, set[str]]:
    """The model, and the names of its parameters that the folder has no fitting values for; they are freshly initialised."""
    assert section.pretrained is not None
    check_choice("The head", head, AUTO_CLASSES)
    auto_class: Any = getattr(transformers, AUTO_CLASSES[head])
    try:
        with without_loading_report():
            model, report = auto_class.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,  # a checkpoint in half precision loses small updates
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=section.trust_remote_code,
            )
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise cannot_be_loaded("model.pretrained", section.pretrained, error, "--model.pretrained FOLDER") from None
        raise UserError(f"model.pretrained is {section.pretrained!r}, a {config.model_type} model, which transformers has no {head} of.") from None
    except OSError as error:
        raise cannot_be_loaded("model.pretrained", section.pretrained, error, "--model.pretrained FOLDER") from None
    mismatched = {entry[0] for entry in report["mismatched_keys"]}
    fresh = (set(report["missing_keys"]) | mismatched) & dict(model.named_parameters()).keys()
    return model, {name for name in fresh if name.rpartition(".")[2] != UNUSED_PARAMETER}


def _renew_head(model: PreTrainedModel, fresh: set[str]) -> set[str]:
    """Initialise again what of the head was loaded; returns the names. Raises `UserError` for a model whose head is all shared with its body."""
    names = head_names(model)
    if not names | fresh:
        raise UserError(
            f"model.new_head is true, but the head of {type(model).__name__} has no weights of its own: it shares the embedding's; remove it."
        )
    owners = {name.rpartition(".")[0] for name in names - fresh}
    for owner in sorted(owners):
        _initialise_again(model, model.get_submodule(owner))
    return names


@torch.no_grad()
def _initialise_again(model: PreTrainedModel, module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        parameter._is_hf_initialized = False  # type: ignore[attr-defined]  # transformers' mark of what came from a checkpoint
    model._init_weights(module)


def _check_head_fits(name: str, fresh: set[str], own_labels: list[str], label_names: list[str]) -> None:
    """Raise `UserError` unless the folder has all weights, for the same classes in the same order."""
    cure = "set model.new_head: true to begin with a fresh one"
    if label_names and not any(_is_default(label, index) for index, label in enumerate(own_labels)) and own_labels != label_names and not fresh:
        raise UserError(f"The head of {name!r} tells {_listed(own_labels)} apart, and the data have {_listed(label_names)}; {cure}.")
    if label_names and len(own_labels) != len(label_names) and fresh:
        raise UserError(f"The head of {name!r} has {len(own_labels)} labels, and the data have {len(label_names)} ({_listed(label_names)}); {cure}.")
    if fresh:
        raise UserError(f"{name!r} has no weights for {_listed(sorted(fresh))}: it was trained with another head; {cure}.")
    if label_names and own_labels != label_names:
        logger.warning(
            "The classes of %r have no names; its class 0 is taken for %r, and so on: model.new_head: true begins anew.", name, label_names[0]
        )


def _is_default(label: str, index: int) -> bool:
    return label == f"LABEL_{index}"  # what transformers calls a class without a name


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(map(repr, names[:MOST_NAMES])) + more


def _num_embeddings(model: PreTrainedModel) -> int:
    return cast(nn.Embedding, model.get_input_embeddings()).weight.shape[0]


def _check_reads_left_to_right(model: PreTrainedModel, name: str) -> None:
    """Raise `UserError` if the logits of a token depend on the tokens after it, as BERT's do: the next token would be read, not predicted."""
    last = _num_embeddings(model) - 1
    rows = torch.tensor([[3, 4, 5], [3, 4, 6]]).clamp(max=last)
    rows[1, 2] = 0 if last < 6 else 6
    with evaluation_mode(model):
        first, second = model(input_ids=rows, use_cache=False).logits[:, 0].float()
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-4):
        raise UserError(
            f"model.pretrained is {name!r}, a {type(model).__name__} that reads the tokens after a token too, so it cannot learn to predict them; "
            "take a causal language model such as GPT-2, or another task."
        )
