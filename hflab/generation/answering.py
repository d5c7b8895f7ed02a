"""The answers of an encoder-decoder to prompts, each in one piece.

    print(answer_text(model, tokenizer, "h e l l o"))
    for text in answer_texts(model, tokenizer, ["h e l l o", "w o r l d"], batch_size=2):
        print(text)

Knows nothing about tasks or training; text that is continued comes from `streaming.py` and `batches.py`.

Shapes: `B` rows, `S` tokens of the longest prompt.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.processors import check_encodable
from ..errors import UserError
from ..evaluation.model_properties import evaluation_mode
from .decoding import StopFilter
from .options import DEFAULT_BATCH_SIZE, GenerationOptions, check_batch_size


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
    return _answer(model, tokenizer, [_encode(tokenizer, prompt)], options)[0]


def answer_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    options: GenerationOptions | None = None,
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> Iterator[str]:
    """Yield what `model` writes for each of `prompts`, in their order: what `answer_text` returns, the seed raised by the prompt's place, from 0.

    Likeliest answers are searched for `batch_size` at a time; drawn ones are written one by one, so that each depends on its own seed alone.

    Raises:
        UserError: `batch_size` is not positive; or what `answer_text` raises, with the number of the prompt. All prompts are checked first.
    """
    check_batch_size(batch_size)
    sources = []
    for number, prompt in enumerate(prompts, start=1):
        try:
            sources.append(_encode(tokenizer, prompt))
        except UserError as error:
            raise UserError(f"Prompt {number}: {error}") from None
    return _answers(model, tokenizer, sources, options, batch_size)


def _answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sources: list[list[int]], options: GenerationOptions | None, batch_size: int
) -> Iterator[str]:
    rows = 1 if options is not None and options.temperature > 0 else batch_size
    for start in range(0, len(sources), rows):
        yield from _answer(model, tokenizer, sources[start : start + rows], options if options is None else options.of_prompt(start))


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    if not prompt.strip():
        raise UserError("The prompt is empty, and an encoder-decoder answers a text; give a prompt.")
    check_encodable(tokenizer, prompt)
    ids = list(tokenizer(prompt)["input_ids"])
    # sources end with it in training; most tokenizers add it by themselves
    return ids if ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]


def _answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sources: list[list[int]], options: GenerationOptions | None) -> list[str]:
    ids, mask = _pad_right(sources, model.device)
    given: Any = {} if options is None else _arguments(options)
    writer: Any = model
    with evaluation_mode(model), torch.random.fork_rng(enabled=options is not None):
        if options is not None and options.temperature > 0:
            torch.manual_seed(options.seed) if options.seed is not None else torch.seed()
        written = writer.generate(input_ids=ids, attention_mask=mask, **given)
    stop_strings = () if options is None else options.stop_strings  # not left to `generate`, whose own fail on vocabularies of whole symbols
    return [_cut(text, stop_strings).strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]


def _cut(text: str, stop_strings: Sequence[str]) -> str:
    stop_filter = StopFilter(stop_strings)
    return stop_filter.push(text) + stop_filter.flush()


def _pad_right(sources: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens (B, S) and their mask (B, S), 1 at real ones; masked places hold token 0, which nobody reads."""
    S = max(map(len, sources))
    ids = torch.tensor([row + [0] * (S - len(row)) for row in sources], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (S - len(row)) for row in sources], device=device)
    return ids, mask


def _arguments(options: GenerationOptions) -> dict[str, Any]:
    """The options as `generate` takes them."""
    given: dict[str, Any] = {"repetition_penalty": float(options.repetition_penalty)}
    if options.max_new_tokens is not None:  # else the model's own limit
        given |= {"max_new_tokens": options.max_new_tokens, "max_length": None}  # both limits at once are warned of
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
