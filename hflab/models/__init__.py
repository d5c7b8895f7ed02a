"""The model families by name, and building a model of one from a family, a head and config fields.

    model = build_model("recurrent", "ForCausalLM", {"cell_type": "gru", "hidden_size": 512, "vocab_size": 96})

A family is a package here that defines `CONFIG_CLASS` and `HEADS`, and a line in `FAMILIES`; it is imported when it is first used. This module
knows nothing about data or training.
"""

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoFeatureExtractor, PreTrainedConfig, PreTrainedModel, SequenceFeatureExtractor

from ..errors import UserError, check_choice, nearest


@dataclass(frozen=True)
class Family:
    """A model family, the package `hflab.models.<name>`."""

    name: str
    is_own: bool = True  # False: the classes are those of transformers, which knows them already

    @property
    def config_class(self) -> type[PreTrainedConfig]:
        """The family's configuration."""
        return importlib.import_module(f".{self.name}", __name__).CONFIG_CLASS

    @property
    def feature_extractor_class(self) -> type[SequenceFeatureExtractor] | None:
        """What makes features of waveforms for the family's speech recognizer; None for a family that reads text only."""
        return getattr(importlib.import_module(f".{self.name}", __name__), "FEATURE_EXTRACTOR_CLASS", None)

    @property
    def build_feature_extractor(self) -> Callable[..., SequenceFeatureExtractor] | None:
        """From a config of the family, and a function that measures features of the data, to its feature extractor; None likewise."""
        return getattr(importlib.import_module(f".{self.name}", __name__), "build_feature_extractor", None)

    @property
    def heads(self) -> dict[str, type[PreTrainedModel]]:
        """The family's model classes by what their names end in, for example "ForCausalLM"."""
        return importlib.import_module(f".{self.name}", __name__).HEADS


FAMILIES: dict[str, Family] = {
    "recurrent": Family("recurrent"),
    "mini_transformer": Family("mini_transformer"),
    "gpt2": Family("gpt2", is_own=False),
    "wav2vec2": Family("wav2vec2", is_own=False),
}


def register_auto_classes() -> None:
    """Teach transformers' Auto classes every family, so that no remote code is needed. May be called again."""
    for family in FAMILIES.values():
        if not family.is_own:
            continue
        config_class = family.config_class
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        if family.feature_extractor_class is not None:
            AutoFeatureExtractor.register(config_class, family.feature_extractor_class, exist_ok=True)
        for model_class in family.heads.values():
            assert model_class._auto_class is not None  # every head names the Auto class that saves its code
            getattr(transformers, model_class._auto_class).register(config_class, model_class, exist_ok=True)


def config_fields(family: str) -> dict[str, Any]:
    """The fields of a family's config with their defaults; those that all transformers configs have are left out.

    A field with a second name, such as GPT-2's `n_embd`, which is `hidden_size` too, is there under both.

    Raises:
        UserError: If there is no such family.
    """
    config_class = _family(family).config_class
    fields = {field.name: field.default for field in dataclasses.fields(config_class) if field.name in config_class.__annotations__}
    return fields | {name: fields[own_name] for name, own_name in config_class.attribute_map.items() if own_name in fields}


def check_model_config(family: str, head: str, config_overrides: dict[str, Any]) -> None:
    """Check that `build_model` would succeed, without allocating weights.

    Raises:
        UserError: As `build_model`.
    """
    with torch.device("meta"):
        build_model(family, head, config_overrides)


def build_model(family: str, head: str, config_overrides: dict[str, Any], label_names: Sequence[str] | None = None) -> PreTrainedModel:
    """A freshly initialised model on the CPU.

    Args:
        family: A key of `FAMILIES`.
        head: A key of the family's heads.
        config_overrides: Config fields that differ from their defaults.
        label_names: The classes of a classifier, in the order of their numbers; each row, or token, has one of them.

    Raises:
        UserError: For an unknown family, head or field (the message names the nearest) or an impossible value.
    """
    fields = config_fields(family)
    check_choice(f"The head of {family}", head, _family(family).heads)
    for name in config_overrides:
        if name not in fields:
            raise UserError(f"{name} is no field of the {family} config; choose from: {', '.join(fields)}.{nearest(name, fields)}")
    labels = {} if label_names is None else label_fields(label_names)
    for name, own_name in _family(family).config_class.attribute_map.items():
        if name in config_overrides and own_name in config_overrides:
            raise UserError(f"{name} and {own_name} are two names of one field of the {family} config; give one of them.")
    try:
        return _family(family).heads[head](_family(family).config_class(**config_overrides, **labels))
    except StrictDataclassError as error:
        raise UserError(f"The {family} model cannot be built: {error.__cause__}") from error
    except ValueError as error:
        raise UserError(f"The {family} model with head {head} cannot be built: {error}") from error


def label_fields(label_names: Sequence[str]) -> dict[str, Any]:
    """Config fields of a classifier whose rows, or tokens, have one class each, given in the order of their numbers."""
    return {
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: number for number, name in enumerate(label_names)},
        "problem_type": "single_label_classification",
    }


def _family(name: str) -> Family:
    check_choice("The model family", name, FAMILIES)
    return FAMILIES[name]
