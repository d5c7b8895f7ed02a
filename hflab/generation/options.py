"""How text is chosen and when it ends; knows nothing about models."""

import dataclasses
import math
from dataclasses import dataclass

from ..errors import UserError

DEFAULT_NEW_TOKENS = 400
DEFAULT_BATCH_SIZE = 8  # prompts read at a time


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How text is chosen and when it ends. Names and meanings are those of transformers' GenerationConfig.

    Raises:
        UserError: a value outside its range.
    """

    max_new_tokens: int | None = None  # at least 1; None: DEFAULT_NEW_TOKENS, or as many as the model has positions left for
    temperature: float = 1.0  # at least 0; 0 takes the likeliest token (greedy)
    top_k: int = 0  # sample from the k likeliest tokens; 0: from all
    top_p: float = 1.0  # sample from the fewest tokens whose probabilities reach p; above 0, at most 1
    num_beams: int = 1  # above 1: beam search for the likeliest text, with temperature 0
    repetition_penalty: float = 1.0  # above 1 makes tokens that occurred less likely; above 0
    seed: int | None = None  # of the sampling; None: another text every time, or on from where a state left off
    stop_strings: tuple[str, ...] = ()  # the text ends before the first of them

    def __post_init__(self) -> None:
        for name in ("num_beams", "top_k") if self.max_new_tokens is None else ("max_new_tokens", "num_beams", "top_k"):
            _check_type(name, getattr(self, name), (int,), "a whole number")
        for name in ("temperature", "top_p", "repetition_penalty"):
            _check_type(name, getattr(self, name), (int, float), "a number")
        if self.max_new_tokens is not None:
            _check_range("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "at least 1")
        _check_range("num_beams", self.num_beams, self.num_beams >= 1, "at least 1; 1 means no beam search")
        _check_range("temperature", self.temperature, 0 <= self.temperature < math.inf, "0 (greedy) or a positive number")
        _check_range("top_k", self.top_k, self.top_k >= 0, "at least 1, or 0 for all tokens")
        _check_range("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1")
        _check_range("repetition_penalty", self.repetition_penalty, 0 < self.repetition_penalty < math.inf, "above 0; 1 changes nothing")
        if self.seed is not None:
            _check_type("seed", self.seed, (int,), "a whole number")
            _check_range("seed", self.seed, 0 <= self.seed < 2**63, "from 0 to 2**63 - 1")
        if isinstance(self.stop_strings, str) or not all(isinstance(stop, str) and stop for stop in self.stop_strings):
            raise UserError(f"stop_strings is {self.stop_strings!r}; give a tuple of strings that are not empty.")
        self._check_combinations()

    def of_prompt(self, index: int) -> "GenerationOptions":
        """Those of the prompt at `index`, from 0, among several: each has a seed of its own, this one's plus the index."""
        return self if self.seed is None else dataclasses.replace(self, seed=(self.seed + index) % 2**63)

    def _check_combinations(self) -> None:
        if self.num_beams > 1 and self.temperature != 0:
            raise UserError(
                f"num_beams is {self.num_beams} and temperature is {self.temperature}: beam search looks for the likeliest text and draws nothing; "
                "set temperature to 0, or num_beams to 1."
            )
        if self.temperature == 0 and (self.top_k or self.top_p < 1):
            name = "top_k" if self.top_k else "top_p"
            raise UserError(f"{name} is {getattr(self, name)} and temperature is 0, which always takes the likeliest token; leave one of them out.")


def check_batch_size(batch_size: int) -> None:
    """Raise `UserError` unless `batch_size` is positive."""
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1.")


def _check_type(name: str, value: object, kinds: tuple[type, ...], described: str) -> None:
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise UserError(f"{name} is {value!r} ({type(value).__name__}); it must be {described}.")


def _check_range(name: str, value: float, inside: bool, allowed: str) -> None:
    if not inside:
        raise UserError(f"{name} is {value}; it must be {allowed}.")
