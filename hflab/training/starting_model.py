"""The model that a training begins with: a family's with fresh weights, or a pretrained one. Knows nothing about data or the loop."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..models import build_model, config_fields
from ..recipe import Recipe
from .pretrained import load_pretrained_model, load_pretrained_tokenizer


def starting_model(recipe: Recipe, head: str, config_overrides: dict[str, Any], label_names: Sequence[str] | None = None) -> PreTrainedModel:
    """The model of the recipe's model section, on the CPU.

    Args:
        recipe: names a family or a pretrained model, and fields of its config.
        head: a key of `hflab.training.pretrained.AUTO_CLASSES`.
        config_overrides: what the data decide of a family's config, `vocab_size` at least, to which a pretrained model's embedding grows; fields that
            the family lacks are left out, and those that the recipe sets win.
        label_names: the classes of a classifier, in the order of their numbers.

    Raises:
        UserError: the family lacks the head or a field that the recipe sets, or a value is impossible; and what `load_pretrained_model` raises.
    """
    section = recipe.model
    if section.pretrained is not None:
        return load_pretrained_model(section, head, label_names=label_names, vocab_size=config_overrides["vocab_size"])
    assert section.family is not None  # recipe.py demands one of the two
    fields = config_fields(section.family)
    given = {name: value for name, value in config_overrides.items() if name in fields}
    return build_model(section.family, head, {**given, **section.config}, label_names=label_names)


def given_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase | None:
    """A pretrained model reads with its own tokenizer, whatever the processor section says; None for a family's model."""
    section = recipe.model
    return None if section.pretrained is None else load_pretrained_tokenizer(section)
