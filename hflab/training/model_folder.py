"""Writes the model folder of a run: weights, config, custom code, tokenizer and recipe. The card joins them in `hflab.hub`."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..recipe import Recipe
from ..run_folder import RunFolder
from .adapters import save_adapted_model
from .checkpoints import raise_if_disk_full


def save_model_folder(
    run: RunFolder, recipe: Recipe, model: PreTrainedModel, save_processor: Callable[[Path], None], weights: dict[str, Tensor] | None
) -> None:
    """Write `run.model` in one piece: a kill in the middle leaves the folder of before, or none.

    Args:
        run: whose folder it is.
        recipe: is saved too, as it may be published.
        model: the model.
        save_processor: writes what the model reads with into a folder.
        weights: stand in for those of a sharded model.

    Raises:
        UserError: the disk is full.
    """
    partial = run.path / "model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        if recipe.model.lora is None:
            model.save_pretrained(partial, state_dict=weights)
        else:
            save_adapted_model(model, recipe.model.lora, partial, weights)
        save_processor(partial)
        recipe.public().save(partial / "recipe.yaml")
    except Exception as error:  # safetensors and tokenizers raise types of their own for a full disk
        shutil.rmtree(partial, ignore_errors=True)
        raise_if_disk_full(run.path, 0, error)
        raise
    shutil.rmtree(run.model, ignore_errors=True)
    partial.rename(run.model)


def model_facts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> dict[str, Any]:
    """Class, size and hash of the saved weights."""
    weights = sorted(folder.glob("*.safetensors"))
    digest = hashlib.sha256()
    for file in weights:
        digest.update(file.read_bytes())
    return {
        "class": type(model).__name__,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_trained_parameters": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "num_bytes": sum(file.stat().st_size for file in weights),
        "weights_sha256": digest.hexdigest(),
        **({} if tokenizer is None else {"tokenizer_vocab_size": len(tokenizer)}),
    }
