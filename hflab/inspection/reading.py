"""From a model and a text to numbers with labels: what each token looked at, or how a recurrent model's state moved.

    reading = read_text(model, tokenizer, "我爱机器")
    reading.maps[0].weights          # (L, N, T, S), rows that sum to 1

Knows nothing about pictures, files and folders. Shapes: `L` layers, `N` heads, `T` tokens that look, `S` tokens looked at.
"""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.processors import check_encodable
from ..errors import UserError
from ..evaluation.model_properties import carries_state, evaluation_mode, max_positions
from .maps import AttentionMaps, Reading, Target, Token
from .states import trace_state
from .tokens import name_tokens

MOST_TOKENS = 80  # on a side of a map: more would not be legible
MOST_TRACED_TOKENS = 240  # of a recurrent language model, which needs a line and no square
LOOKS, LOOKED_AT = "token that looks", "token looked at"


def read_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, target: str | None = None) -> Reading:
    """Let `model` read `text` and return what it looked at.

    Args:
        model: any model of transformers that forms its attention weights (`attn_implementation="eager"`), or a recurrent language model; on the
            CPU. Its mode stays as it is.
        tokenizer: its tokenizer.
        text: for an encoder-decoder the source.
        target: what an encoder-decoder is to write; by default what it writes by itself, always taking the likeliest token.

    Raises:
        UserError: text or target is empty, too long or has unknown characters; a target is given to a model without a decoder; or there is
            nothing to see, neither attention nor a recurrent language model.
    """
    _check_text("text", text, tokenizer)
    if target is not None:
        if not model.config.is_encoder_decoder:
            raise UserError(f"A target was given, but {type(model).__name__} reads one text and has no decoder to write it; leave the target out.")
        _check_text("target", target, tokenizer)
    with evaluation_mode(model):
        if model.config.is_encoder_decoder:
            return _read_pair(model, tokenizer, text, target)
        if carries_state(model) and model.can_generate():
            return _read_recurrent(model, tokenizer, text)
        return _read_one(model, tokenizer, text)


def _check_text(name: str, text: str, tokenizer: PreTrainedTokenizerBase) -> None:
    if not text.strip():
        raise UserError(f"The {name} is empty, so there is nothing to look at; give at least a word.")
    check_encodable(tokenizer, text)


def _read_one(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Reading:
    """One text and one stack of layers."""
    _check_attends(model)
    ids = torch.tensor([_encode(model, tokenizer, text)])
    outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_attentions=True)
    tokens = name_tokens(tokenizer, ids[0].tolist())
    maps = AttentionMaps("self_attention", "Self-attention", _stack(model, outputs.get("attentions")), tokens, tokens, LOOKS, LOOKED_AT)
    return Reading(type(model).__name__, text, (maps,))


def _read_recurrent(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Reading:
    """A recurrent language model, from the end-of-text token on, after which it learnt to begin."""
    first = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ids = first + _encode(model, tokenizer, text, most=MOST_TRACED_TOKENS)
    return Reading(type(model).__name__, text, trace=trace_state(model, ids, name_tokens(tokenizer, ids)))


def _read_pair(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, target: str | None) -> Reading:
    """A source, and the target that a decoder writes beside it: given, or generated greedily."""
    _check_attends(model)
    source = torch.tensor([_encode(model, tokenizer, text, close=True)])
    start, most, was_given = _start_token(model), _most_tokens(model), target is not None
    written = _encode(model, tokenizer, target, close=True, is_target=True) if target is not None else _write_greedily(model, source, most)
    outputs = model(
        input_ids=source,
        attention_mask=torch.ones_like(source),
        decoder_input_ids=torch.tensor([[start, *written[:-1]]]),
        output_attentions=True,
        use_cache=False,
    )
    sources, targets = name_tokens(tokenizer, source[0].tolist()), name_tokens(tokenizer, written)
    read = (Token(name_tokens(tokenizer, [start])[0].label, "special"), *targets[:-1])  # T5 starts with the pad token, which pads nothing here
    shown = cast(str, tokenizer.decode(written, skip_special_tokens=True)) if target is None else target
    found = Target(shown, was_given, was_cut=not was_given and len(written) == most and written[-1] != tokenizer.eos_token_id)
    return Reading(type(model).__name__, text, _maps_of_pair(model, outputs, sources, read, targets), target=found)


def _maps_of_pair(
    model: PreTrainedModel, outputs: Any, sources: tuple[Token, ...], read: tuple[Token, ...], written: tuple[Token, ...]
) -> tuple[AttentionMaps, ...]:
    """Cross-attention, and the self-attentions that there are: recurrent models have none."""
    cross = _stack(model, outputs.get("cross_attentions"))
    maps = [AttentionMaps("cross_attention", "Cross-attention", cross, written, sources, "token about to be written", "token of the source")]
    if outputs.get("encoder_attentions"):
        weights = _stack(model, outputs.encoder_attentions)
        maps.append(AttentionMaps("encoder_self_attention", "Self-attention of the encoder", weights, sources, sources, LOOKS, LOOKED_AT))
    if outputs.get("decoder_attentions"):
        weights = _stack(model, outputs.decoder_attentions)
        maps.append(AttentionMaps("decoder_self_attention", "Self-attention of the decoder", weights, read, read, LOOKS, LOOKED_AT))
    return tuple(maps)


def _check_attends(model: PreTrainedModel) -> None:
    """Raise `UserError` for a recurrent model without attention; whether another model has any is seen when it was run."""
    config = model.config
    if config.model_type == "recurrent" and not (config.is_encoder_decoder and config.attention_type != "none"):
        raise _nothing_to_see(model)


def _nothing_to_see(model: PreTrainedModel) -> UserError:
    return UserError(
        f"{type(model).__name__} as it is here has no attention weights to look at. Give a Transformer, a recurrent encoder-decoder with "
        "attention_type multiplicative or additive, or a recurrent causal language model, which shows its surprise and its state instead."
    )


def _stack(model: PreTrainedModel, attentions: tuple[Tensor | None, ...] | None) -> np.ndarray:
    """The weights (L, N, T, S) of the one row that was read, from (1, N, T, S) of each layer."""
    layers = [weights for weights in attentions or () if weights is not None]
    if not layers:
        raise _nothing_to_see(model)
    weights = torch.cat(layers).float().numpy()
    if not np.isfinite(weights).all():
        raise UserError("The attention weights are not numbers: the model is damaged, or its training diverged; take an earlier checkpoint.")
    return weights


def _most_tokens(model: PreTrainedModel) -> int:
    """Most tokens of a side: what is legible, or fewer where the model has fewer positions."""
    return min(MOST_TOKENS, max_positions(model) or MOST_TOKENS)


def _encode(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, *, most: int | None = None, close: bool = False, is_target: bool = False
) -> list[int]:
    """Token ids with the special tokens that the tokenizer adds, as the data of a training has them. `close`: eos at the end of them.

    Raises:
        UserError: there are more than `most`, by default as many as the model and a picture have room for.
    """
    ids = list(tokenizer(text_target=text)["input_ids"] if is_target else tokenizer(text)["input_ids"])
    if close and tokenizer.eos_token_id is not None and ids[-1:] != [tokenizer.eos_token_id]:
        ids.append(tokenizer.eos_token_id)
    most = _most_tokens(model) if most is None else most
    if len(ids) > most:
        raise UserError(f"The {'target' if is_target else 'text'} has {len(ids)} tokens, but at most {most} can be shown; give a shorter one.")
    if not ids:
        raise UserError(f"The tokenizer makes no token of {text!r}, so there is nothing to look at; give other words.")
    return ids


def _start_token(model: PreTrainedModel) -> int:
    """The token that the decoder reads first."""
    for config in (model.generation_config, model.config):
        for name in ("decoder_start_token_id", "bos_token_id"):
            start = getattr(config, name, None)
            if start is not None:
                return int(start)
    raise UserError("The model does not say which token its decoder begins with; set decoder_start_token_id in its config.json.")


def _write_greedily(model: PreTrainedModel, source: Tensor, most: int) -> list[int]:
    """The target that the model writes for `source` (1, S), at most `most` tokens, without the token it starts from."""
    generate = cast(Any, model).generate  # every encoder-decoder has it, though PreTrainedModel does not say so
    written = generate(source, attention_mask=torch.ones_like(source), do_sample=False, num_beams=1, max_new_tokens=most, max_length=None)
    return written[0, 1:].tolist()
