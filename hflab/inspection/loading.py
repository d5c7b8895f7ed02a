"""From a folder or a Hub id to a model that gives its attention weights out, and its tokenizer. Knows nothing about texts."""

from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..errors import FOLDER_INSTEAD, cannot_be_loaded

# What the names of model classes end in -> the Auto class that opens them. Another class is opened without its head, which does not attend.
AUTO_CLASSES = {
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForPreTraining": "AutoModelForPreTraining",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
}


def load_model(folder: str, *, trust_remote_code: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model with the head it was saved with, in float32 on the CPU, and its tokenizer.

    It computes attention the plain way ("eager"): faster implementations never form the weights.

    Raises:
        UserError: there is no such model or tokenizer, or it needs code that is not trusted.
    """
    given: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **given)
        auto_class = getattr(transformers, _auto_class(AutoConfig.from_pretrained(folder, **given)))
        model = auto_class.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32, **given)
    except (OSError, ValueError) as error:
        raise cannot_be_loaded("The model", folder, error, FOLDER_INSTEAD) from None
    return model.eval(), tokenizer


def _auto_class(config: PreTrainedConfig) -> str:
    """Name of the Auto class for what the config was saved with."""
    if config.is_encoder_decoder:
        return "AutoModelForSeq2SeqLM"
    saved = (config.architectures or [""])[0]
    return next((auto_class for ending, auto_class in AUTO_CLASSES.items() if saved.endswith(ending)), "AutoModel")
