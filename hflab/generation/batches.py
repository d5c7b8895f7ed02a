"""Texts after many prompts at once, by sampling or beam search.

    for text in generate_texts(model, tokenizer, ["ROMEO:", "JULIET:"], GenerationOptions(seed=1), batch_size=2):
        print(text)

Prompts of a batch are padded on the left. Each has a random number generator of its own, seeded by `seed` plus the prompt's place among all, from 0:
so a text depends neither on the batch size nor on its neighbours, as far as the model's logits do not (products over more rows may round otherwise,
which changes a text only where two tokens are as good as equal), and it is what `stream_text` writes with that seed.

Shapes: `B` rows, `T` tokens of the longest prompt, `V` vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..errors import UserError
from ..evaluation.model_properties import evaluation_mode, innermost, max_positions, takes
from .options import DEFAULT_BATCH_SIZE, GenerationOptions, check_batch_size
from .streaming import build_generator, encode_prompt, eos_tokens, num_new_tokens
from .text_row import TextRow

FILLER = 0  # stands at masked places, so that any token will do


def generate_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    options: GenerationOptions,
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> Iterator[str]:
    """Yield the text that `model` writes after each of `prompts`, in their order, without the prompt.

    With beam search and no `max_new_tokens`, the longest prompt decides how many tokens follow all of them.

    Args:
        model: causal language model; its mode and the global random number generators stay as they are.
        tokenizer: its tokenizer, of the `tokenizers` library.
        prompts: may be empty strings, which begin new texts.
        options: how tokens are chosen and when a text ends. Beam search passes over stop strings; the text is cut before the first.
        batch_size: prompts read at a time, at least 1.

    Raises:
        UserError: `batch_size` is not positive; or what `stream_text` raises, with the number of the prompt. All prompts are checked first.
    """
    check_batch_size(batch_size)
    rows = [_open_row(model, tokenizer, prompt, options, index) for index, prompt in enumerate(prompts)]
    fewest_left = min((row.num_left for row in rows), default=0)
    return _texts(model, rows, options, batch_size, fewest_left)


def _open_row(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, options: GenerationOptions, index: int) -> TextRow:
    try:
        tokens = encode_prompt(tokenizer, prompt)
        num_left = num_new_tokens(model, len(tokens), options)
    except UserError as error:
        raise UserError(f"Prompt {index + 1}: {error}") from None
    generator = build_generator(innermost(model).device, options.of_prompt(index).seed)
    return TextRow(tokenizer, tokens, options, eos_tokens=eos_tokens(model, tokenizer), num_left=num_left, generator=generator)


def _texts(model: PreTrainedModel, rows: list[TextRow], options: GenerationOptions, batch_size: int, fewest_left: int) -> Iterator[str]:
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        with evaluation_mode(model):
            texts = _search(model, batch, options, fewest_left) if options.num_beams > 1 else _sample(model, batch)
        yield from texts


def _sample(model: PreTrainedModel, rows: list[TextRow]) -> list[str]:
    """Choose one token after the other, for all rows at a time; a row that has ended reads on unheard."""
    ids, mask = _pad_left(model, rows)
    positions, limit = (mask.cumsum(-1) - 1).clamp(min=0), max_positions(model)
    # a recurrent model counts no positions
    takes_positions = takes(model, "position_ids")
    cache, texts = None, [""] * len(rows)
    while not all(row.ended for row in rows):
        placed = {"position_ids": positions} if takes_positions else {}
        output = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1, **placed)
        cache, logits = output.past_key_values, output.logits[:, -1].float()
        chosen = [FILLER if row.ended else row.choose(logits[index : index + 1]) for index, row in enumerate(rows)]
        for index, row in enumerate(rows):
            if not row.ended:
                texts[index] += row.append(chosen[index])
        ids = torch.tensor(chosen, device=ids.device)[:, None]
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        positions = positions[:, -1:] + 1
        if limit is not None:  # only a row that has ended gets there
            positions = positions.clamp(max=limit - 1)
    return texts


def _search(model: PreTrainedModel, rows: list[TextRow], options: GenerationOptions, num_new: int) -> list[str]:
    """The likeliest texts that transformers' beam search finds."""
    ids, mask = _pad_left(model, rows)
    ends = sorted(rows[0].eos_tokens)
    config = GenerationConfig(
        max_new_tokens=num_new,
        num_beams=options.num_beams,
        do_sample=False,
        repetition_penalty=float(options.repetition_penalty),
        eos_token_id=ends or None,
        pad_token_id=FILLER,
    )
    searching: Any = innermost(model)
    written = searching.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, ids.shape[1] :].tolist()
    return [_spell(row, tokens) for row, tokens in zip(rows, written, strict=True)]


def _spell(row: TextRow, tokens: list[int]) -> str:
    text = ""
    for token in tokens:
        if not row.ended:
            text += row.append(token)
    return text + row.flush()


def _pad_left(model: PreTrainedModel, rows: list[TextRow]) -> tuple[Tensor, Tensor]:
    """Tokens (B, T) and their mask (B, T), 1 at real ones."""
    T, device = max(len(row.tokens) for row in rows), innermost(model).device
    ids = [[FILLER] * (T - len(row.tokens)) + row.tokens for row in rows]
    mask = [[0] * (T - len(row.tokens)) + [1] * len(row.tokens) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
