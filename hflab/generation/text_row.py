"""One text in the making: chooses its next token from the model's logits, spells it, and knows when it has ended. Knows nothing about models.

Shapes: `V` vocabulary.
"""

import math

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..errors import UserError
from .decoding import IncrementalDecoder, StopFilter
from .options import GenerationOptions


class TextRow:
    """The tokens of a text, prompt included, and what chooses and spells the next ones.

    Args:
        tokenizer: of the `tokenizers` library.
        tokens: of the prompt, at least one.
        options: how tokens are chosen and when the text ends.
        eos_tokens: tokens that end it.
        num_left: most tokens to add.
        generator: of the sampling, on the device of the logits.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tokens: list[int],
        options: GenerationOptions,
        *,
        eos_tokens: set[int],
        num_left: int,
        generator: torch.Generator,
    ) -> None:
        self.tokens = tokens
        self.generator = generator
        self.num_left = num_left
        self.eos_tokens = eos_tokens
        self._options = options
        self._seen = set(tokens)
        self._processors = _build_processors(options)
        self._decoder = IncrementalDecoder(tokenizer, tokens)
        self._filter = StopFilter(options.stop_strings)

    @property
    def ended(self) -> bool:
        """Whether nothing can be added: an end-of-text token, a stop string, or the last of the tokens that were allowed."""
        return self.num_left == 0

    def choose(self, logits: Tensor) -> int:
        """Choose a token from `logits` (1, V). Raises `UserError` when they are no numbers, which sampling would end a CUDA process for."""
        if math.isnan(logits.sum()):
            raise UserError("The model's output is not a number: its weights are damaged, or its training diverged; take an earlier checkpoint.")
        if self._processors:
            # only the repetition penalty looks at the tokens before, and only at which there are
            penalised = self._seen if self._options.repetition_penalty != 1 else ()
            seen = torch.tensor([list(penalised)], dtype=torch.long, device=logits.device)
            for processor in self._processors:
                logits = processor(seen, logits)
        if self._options.temperature == 0:
            return int(logits.argmax())
        return int(torch.multinomial(logits.softmax(-1), 1, generator=self.generator))

    def append(self, token: int) -> str:
        """Add `token`; return the text that it makes certain, all that is left of it at the end."""
        self.tokens.append(token)
        self._seen.add(token)
        self.num_left -= 1
        if token in self.eos_tokens:
            self.num_left = 0
            return self._filter.flush()
        piece = self._filter.push(self._decoder.push(token))
        if self._filter.stopped:
            self.num_left = 0
        return piece if self.num_left else piece + self._filter.flush()

    def flush(self) -> str:
        """Return the text that was held back, because no token follows that could make it a stop string."""
        return self._filter.flush()


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
