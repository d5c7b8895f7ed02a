"""Text from a causal language model, piece by piece.

    for piece in stream_text(model, tokenizer, "ROMEO:", GenerationOptions(temperature=0.8, seed=1)):
        print(piece, end="", flush=True)

Works for every model of transformers with `past_key_values` (recurrent or attention) and gives what `model.generate` gives with the
same options, with less work between two tokens. A stream's `state` continues the text without reading it again:

    stream = stream_text(model, tokenizer, "Once", GenerationOptions(max_new_tokens=50))
    beginning = "".join(stream)
    rest = generate_text(model, tokenizer, "", GenerationOptions(max_new_tokens=50), state=stream.state)

Shapes: `V` vocabulary.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

from ..data.processors import check_encodable
from ..errors import UserError
from ..evaluation.model_properties import evaluation_mode, innermost, max_positions
from .options import DEFAULT_NEW_TOKENS, GenerationOptions
from .text_row import TextRow

__all__ = ["GenerationOptions", "GenerationState", "TextStream", "generate_text", "longest_prompt", "stream_text"]

PREFILL_TOKENS = 1024  # of a prompt read in one forward: bounds the memory that a long prompt takes


@dataclass(frozen=True)
class GenerationState:
    """Where a text stands. Continuing from it does not change it: the same state can be continued many times."""

    cache: Cache  # of the tokens that the model has read
    tokens: tuple[int, ...]  # of the whole text, prompts included
    num_read: int  # tokens in the cache: all but the last
    random_state: Tensor  # of the sampling's generator; uint8


class TextStream(Iterator[str]):
    """The pieces of a text; made by `stream_text`. Nothing is computed before the first piece is asked for."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        tokens: list[int],
        options: GenerationOptions,
        state: GenerationState | None,
    ) -> None:
        self._model = model
        self._cache = copy.deepcopy(state.cache) if state else None
        self._num_read = state.num_read if state else 0
        self._device = innermost(model).device
        self._row = TextRow(
            tokenizer,
            tokens,
            options,
            eos_tokens=eos_tokens(model, tokenizer),
            num_left=num_new_tokens(model, len(tokens), options),
            generator=build_generator(self._device, options.seed, state),
        )

    @property
    def state(self) -> GenerationState:
        """The state after the tokens chosen so far; these include a stop string, or an end-of-text token, that ended the text.

        Raises:
            UserError: no piece was asked for yet.
        """
        if self._cache is None:
            raise UserError("The stream has no state before its first piece; iterate over it first.")
        return GenerationState(copy.deepcopy(self._cache), tuple(self._row.tokens), self._num_read, self._row.generator.get_state())

    def __next__(self) -> str:
        while not self._row.ended:
            # walking over the modules costs as much as a small model's step, so it is left to models in training
            with evaluation_mode(self._model) if self._model.training else torch.no_grad():
                token = self._row.choose(self._read())
            piece = self._row.append(token)
            if piece:
                return piece
        raise StopIteration

    def _read(self) -> Tensor:
        """Let the model read the tokens it has not read; return the logits behind the last, (1, V) float32."""
        tokens = self._row.tokens
        while self._num_read < len(tokens):
            block = tokens[self._num_read : self._num_read + PREFILL_TOKENS]
            ids = torch.tensor([block], device=self._device)
            output = self._model(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
            self._cache = output.past_key_values
            self._num_read += len(block)
        return output.logits[:, -1].float()


def stream_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    options: GenerationOptions,
    state: GenerationState | None = None,
) -> TextStream:
    """Return the text that `model` writes after `prompt`, as an iterator of pieces; the prompt is not repeated.

    Args:
        model: causal language model; its mode and the global random number generators stay as they are.
        tokenizer: its tokenizer, of the `tokenizers` library.
        prompt: read first. An empty one starts a new text, from the end-of-text token, or goes on exactly where `state` is.
        options: how tokens are chosen and when the text ends.
        state: `.state` of an earlier stream with the same model: `prompt` is read after that stream's text.

    Raises:
        UserError: the tokenizer does not know a character of the prompt, the prompt is empty and there is no end-of-text token, or the
            model has too few positions for prompt and text. From the stream: the model's output is not a number.
    """
    if options.num_beams > 1:
        raise UserError("num_beams is above 1: beam search has no text before its end, so it cannot be streamed; use generate_batch.")
    return TextStream(model, tokenizer, encode_prompt(tokenizer, prompt, state), options, state)


def generate_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    options: GenerationOptions,
    state: GenerationState | None = None,
) -> str:
    """Return the whole text that `stream_text` gives piece by piece. Raises `UserError` as it does."""
    return "".join(stream_text(model, tokenizer, prompt, options, state))


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, state: GenerationState | None = None) -> list[int]:
    """Token ids of the whole text up to the end of `prompt`, at least one."""
    check_encodable(tokenizer, prompt)
    if state is not None:
        return [*state.tokens, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    tokens = list(tokenizer(prompt)["input_ids"])
    if tokens:
        return tokens
    if tokenizer.eos_token_id is None:
        raise UserError("The prompt is empty and the tokenizer has no end-of-text token to start from; give a prompt.")
    return [tokenizer.eos_token_id]


def num_new_tokens(model: PreTrainedModel, num_tokens: int, options: GenerationOptions) -> int:
    """How many tokens may follow a text of `num_tokens`. Raises `UserError` when the model has too few positions for them."""
    positions = max_positions(model)
    if positions is None:
        return options.max_new_tokens or DEFAULT_NEW_TOKENS
    if num_tokens > positions:
        raise UserError(f"The text has {num_tokens} tokens, but the model has {positions} positions, so it cannot read it all; shorten the text.")
    room = positions - num_tokens + 1  # the last token is written, not read
    if options.max_new_tokens is not None and options.max_new_tokens > room:
        raise UserError(
            f"The text has {num_tokens} tokens and max_new_tokens is {options.max_new_tokens}, but the model has {positions} positions; "
            f"lower max_new_tokens to {room}, or shorten the text."
        )
    return options.max_new_tokens or min(DEFAULT_NEW_TOKENS, room)


def longest_prompt(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, max_new_tokens: int) -> str:
    """The end of `prompt` that leaves the model positions for `max_new_tokens`; all of it where nothing limits them."""
    positions = max_positions(model)
    while positions is not None and prompt and len(tokenizer(prompt)["input_ids"]) + max_new_tokens - 1 > positions:
        prompt = prompt[1:]
    return prompt


def build_generator(device: torch.device, seed: int | None, state: GenerationState | None = None) -> torch.Generator:
    """The generator of a text's sampling: seeded, or where `state` left off, or from the system's randomness."""
    generator = torch.Generator(device)
    if seed is not None:
        generator.manual_seed(seed)
    elif state is not None:
        generator.set_state(state.random_state)
    else:
        generator.seed()
    return generator


def eos_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end a text: those of the model's generation config, or the tokenizer's where it has none."""
    given = innermost(model).generation_config.eos_token_id
    given = tokenizer.eos_token_id if given is None else given
    return set() if given is None else {given} if isinstance(given, int) else set(given)
