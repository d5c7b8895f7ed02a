"""How a recurrent language model went through a text, token by token. Shapes: `T` tokens, `V` vocabulary."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from ..models.recurrent.cache_recurrent import states_from_cache
from .maps import StateTrace, Token


def trace_state(model: PreTrainedModel, ids: Sequence[int], tokens: tuple[Token, ...]) -> StateTrace:
    """Let a recurrent language model, in evaluation mode, read `ids` one at a time from a zero state."""
    cache, steps, surprisal = None, [], [float("nan")]
    for place, token in enumerate(ids):
        outputs = model(input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True)
        cache = outputs.past_key_values
        steps.append(_named_states(cache))
        if place + 1 < len(ids):
            log_probabilities = outputs.logits[0, -1].double().log_softmax(-1)
            surprisal.append(-float(log_probabilities[ids[place + 1]]) / np.log(2))
    changes = {name: _changes(torch.stack([step[name] for step in steps])) for name in steps[0]}
    return StateTrace(tokens, np.array(surprisal), changes)


def _named_states(cache: Cache) -> dict[str, Tensor]:
    """The state of every layer, (H,) each, and its cell if it has one."""
    named = {}
    for number, state in enumerate(states_from_cache(cache), start=1):
        named[f"layer {number}, hidden state"] = state.hidden[0]
        if state.cell is not None:
            named[f"layer {number}, cell"] = state.cell[0]
    return named


def _changes(states: Tensor) -> np.ndarray:
    """Relative change (T,) from each state (T, H) to the next; the one before the first is zero."""
    before = torch.cat([torch.zeros_like(states[:1]), states[:-1]])
    lengths = states.norm(dim=-1) + before.norm(dim=-1)
    return ((states - before).norm(dim=-1) / lengths.clamp(min=torch.finfo(states.dtype).tiny)).numpy()
