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
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    Cache,
    LogitsProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..data.processors import check_encodable
from ..errors import UserError
from ..evaluation.inspection import evaluation_mode, innermost, max_positions
from .decoding import IncrementalDecoder, StopFilter

PREFILL_TOKENS = 1024  # of a prompt read in one forward: bounds the memory that a long prompt takes


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How text is chosen and when it ends. Names and meanings are those of transformers' GenerationConfig.

    Raises:
        UserError: a value outside its range.
    """

    max_new_tokens: int = 200  # at least 1
    temperature: float = 1.0  # at least 0; 0 takes the likeliest token (greedy)
    top_k: int = 0  # sample from the k likeliest tokens; 0: from all
    top_p: float = 1.0  # sample from the fewest tokens whose probabilities reach p; above 0, at most 1
    repetition_penalty: float = 1.0  # above 1 makes tokens that occurred less likely; above 0
    seed: int | None = None  # of the sampling; None: another text every time, or on from where a state left off
    stop_strings: tuple[str, ...] = ()  # the text ends before the first of them

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "top_k"):
            _check_type(name, getattr(self, name), (int,), "a whole number")
        for name in ("temperature", "top_p", "repetition_penalty"):
            _check_type(name, getattr(self, name), (int, float), "a number")
        _check_range("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "at least 1")
        _check_range("temperature", self.temperature, 0 <= self.temperature < math.inf, "0 (greedy) or a positive number")
        _check_range("top_k", self.top_k, self.top_k >= 0, "at least 1, or 0 for all tokens")
        _check_range("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1")
        _check_range("repetition_penalty", self.repetition_penalty, 0 < self.repetition_penalty < math.inf, "above 0; 1 changes nothing")
        if self.seed is not None:
            _check_type("seed", self.seed, (int,), "a whole number")
            _check_range("seed", self.seed, 0 <= self.seed < 2**63, "from 0 to 2**63 - 1")
        if isinstance(self.stop_strings, str) or not all(isinstance(stop, str) and stop for stop in self.stop_strings):
            raise UserError(f"stop_strings is {self.stop_strings!r}; give a tuple of strings that are not empty.")


def _check_type(name: str, value: object, kinds: tuple[type, ...], described: str) -> None:
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise UserError(f"{name} is {value!r} ({type(value).__name__}); it must be {described}.")


def _check_range(name: str, value: float, inside: bool, allowed: str) -> None:
    if not inside:
        raise UserError(f"{name} is {value}; it must be {allowed}.")


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
        self._options = options
        self._tokens = tokens
        self._seen = set(tokens)
        self._cache = copy.deepcopy(state.cache) if state else None
        self._num_read = state.num_read if state else 0
        self._device = innermost(model).device
        self._generator = _build_generator(self._device, options.seed, state)
        self._processors = _build_processors(options)
        self._eos_tokens = _eos_tokens(model, tokenizer)
        self._decoder = IncrementalDecoder(tokenizer, tokens)
        self._filter = StopFilter(options.stop_strings)
        self._num_left = options.max_new_tokens

    @property
    def state(self) -> GenerationState:
        """The state after the tokens chosen so far; these include a stop string, or an end-of-text token, that ended the text.

        Raises:
            UserError: no piece was asked for yet.
        """
        if self._cache is None:
            raise UserError("The stream has no state before its first piece; iterate over it first.")
        return GenerationState(copy.deepcopy(self._cache), tuple(self._tokens), self._num_read, self._generator.get_state())

    def __next__(self) -> str:
        while self._num_left:
            piece = self._advance()
            if piece:
                return piece
        raise StopIteration

    def _advance(self) -> str:
        """Choose one more token; return the text that it makes certain."""
        # walking over the modules costs as much as a small model's step, so it is left to models in training
        with evaluation_mode(self._model) if self._model.training else torch.no_grad():
            token = self._choose(self._read())
        self._tokens.append(token)
        self._seen.add(token)
        self._num_left -= 1
        if token in self._eos_tokens:
            self._num_left = 0
            return self._filter.flush()
        piece = self._filter.push(self._decoder.push(token))
        if self._filter.stopped:
            self._num_left = 0
        return piece if self._num_left else piece + self._filter.flush()

    def _read(self) -> Tensor:
        """Let the model read the tokens it has not read; return the logits behind the last, (1, V) float32."""
        while self._num_read < len(self._tokens):
            block = self._tokens[self._num_read : self._num_read + PREFILL_TOKENS]
            ids = torch.tensor([block], device=self._device)
            output = self._model(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
            self._cache = output.past_key_values
            self._num_read += len(block)
        return output.logits[:, -1].float()

    def _choose(self, logits: Tensor) -> int:
        """Choose a token from `logits` (1, V). Raises `UserError` when they are no numbers, which sampling would end a CUDA process for."""
        if math.isnan(logits.sum()):
            raise UserError("The model's output is not a number: its weights are damaged, or its training diverged; take an earlier checkpoint.")
        if self._processors:
            # only the repetition penalty looks at the tokens before, and only at which there are
            penalised = self._seen if self._options.repetition_penalty != 1 else ()
            seen = torch.tensor([list(penalised)], dtype=torch.long, device=self._device)
            for processor in self._processors:
                logits = processor(seen, logits)
        if self._options.temperature == 0:
            return int(logits.argmax())
        return int(torch.multinomial(logits.softmax(-1), 1, generator=self._generator))


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
    tokens = _encode_prompt(tokenizer, prompt, state)
    positions = max_positions(model)
    if positions is not None and len(tokens) + options.max_new_tokens - 1 > positions:
        raise UserError(
            f"The text has {len(tokens)} tokens and max_new_tokens is {options.max_new_tokens}, but the model has {positions} positions; "
            f"lower max_new_tokens to {max(0, positions - len(tokens) + 1)}, or shorten the text."
        )
    return TextStream(model, tokenizer, tokens, options, state)


def generate_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    options: GenerationOptions,
    state: GenerationState | None = None,
) -> str:
    """Return the whole text that `stream_text` gives piece by piece. Raises `UserError` as it does."""
    return "".join(stream_text(model, tokenizer, prompt, options, state))


def _encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, state: GenerationState | None) -> list[int]:
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


def _build_generator(device: torch.device, seed: int | None, state: GenerationState | None) -> torch.Generator:
    generator = torch.Generator(device)
    if seed is not None:
        generator.manual_seed(seed)
    elif state is not None:
        generator.set_state(state.random_state)
    else:
        generator.seed()
    return generator


def _build_processors(options: GenerationOptions) -> list[LogitsProcessor]:
    """What `options` do to the logits, in the order of `model.generate`."""
    processors: list[LogitsProcessor] = []
    if options.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(float(options.repetition_penalty)))
    if options.temperature == 0:
        return processors
    if options.temperature != 1:
        processors.append(TemperatureLogitsWarper(float(options.temperature)))
    if options.top_k:
        processors.append(TopKLogitsWarper(options.top_k))
    if options.top_p < 1:
        processors.append(TopPLogitsWarper(float(options.top_p)))
    return processors


def _eos_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end a text: those of the model's generation config, or the tokenizer's where it has none."""
    given = innermost(model).generation_config.eos_token_id
    given = tokenizer.eos_token_id if given is None else given
    return set() if given is None else {given} if isinstance(given, int) else set(given)
