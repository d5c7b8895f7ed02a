"""The answer of an encoder-decoder to a prompt, in one piece.

    print(answer_text(model, tokenizer, "h e l l o"))

Knows nothing about tasks or training; text that is continued comes from `streaming.py`.
"""

from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.processors import check_encodable
from ..errors import UserError
from ..evaluation.inspection import evaluation_mode
from .options import GenerationOptions


def answer_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, options: GenerationOptions | None = None) -> str:
    """Return what `model` writes for `prompt`.

    Args:
        model: encoder-decoder; its mode and the global random number generators stay as they are.
        tokenizer: its tokenizer.
        prompt: not empty.
        options: how tokens are chosen; None: as the model's generation config has it.

    Raises:
        UserError: the prompt is empty, or has characters that the tokenizer does not know.
    """
    if not prompt.strip():
        raise UserError("The prompt is empty, and an encoder-decoder answers a text; give a prompt.")
    check_encodable(tokenizer, prompt)
    ids = list(tokenizer(prompt)["input_ids"])
    if ids[-1] != tokenizer.eos_token_id:  # sources end with it in training; most tokenizers add it by themselves
        ids = [*ids, tokenizer.eos_token_id]
    source = torch.tensor([ids], device=model.device)
    given: Any = {} if options is None else _arguments(options, tokenizer)
    writer: Any = model
    with evaluation_mode(model), torch.random.fork_rng(enabled=options is not None):
        if options is not None and options.temperature > 0:
            torch.manual_seed(options.seed) if options.seed is not None else torch.seed()
        tokens = writer.generate(input_ids=source, attention_mask=torch.ones_like(source), **given)[0]
    return str(tokenizer.decode(tokens, skip_special_tokens=True)).strip()


def _arguments(options: GenerationOptions, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The options as `generate` takes them."""
    given: dict[str, Any] = {"repetition_penalty": float(options.repetition_penalty)}
    if options.max_new_tokens is not None:  # else the model's own limit
        given["max_new_tokens"] = options.max_new_tokens
    if options.stop_strings:
        given |= {"stop_strings": list(options.stop_strings), "tokenizer": tokenizer}
    if options.temperature == 0:
        return {**given, "do_sample": False, "num_beams": options.num_beams}
    return {
        **given,
        "do_sample": True,
        "num_beams": 1,
        "temperature": float(options.temperature),
        "top_k": options.top_k,
        "top_p": float(options.top_p),
    }
