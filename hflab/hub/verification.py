"""Whether a model folder computes, in a process without hflab, what the model computed here.

    with recorded_calls(model) as calls:
        evaluate(model)                                        # whatever the figures come from
    largest_difference(Path("runs/NAME/model"), "AutoModelForCausalLM", calls)

The first calls of the model during an evaluation are kept, inputs and logits, and repeated in a clean process that loads the folder as a stranger
would: by its own code and weights. So what a figure was computed from is held against what others will get.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import UserError
from .clean_process import run_without_hflab

MOST_CALLS = 3
LARGEST_DIFFERENCE = 1e-3  # of two logits, beside the largest of all: other kernels and other numbers of threads round otherwise

_REPEAT = """
import json
import torch
from safetensors.torch import load_file, safe_open

folder, auto_class, file = sys.argv[1:]
model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True).eval()
tensors = load_file(file)
with safe_open(file, "pt") as opened:
    plain = json.loads(opened.metadata()["plain"])
largest = 0.0
for number, settings in enumerate(plain):
    inputs = {name.split(".", 1)[1]: value for name, value in tensors.items() if name.startswith(f"{number}.")}
    expected = inputs.pop("expected")
    with torch.no_grad():
        found = model(**inputs, **settings).logits.float()
    if found.shape != expected.shape:
        raise SystemExit(f"logits of shape {tuple(found.shape)} instead of {tuple(expected.shape)}")
    largest = max(largest, float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0)))
print(largest)
"""


class RecordedCall(NamedTuple):
    """A call of a model: tensors and plain settings that it was given, and its logits."""

    inputs: dict[str, Tensor]
    settings: dict[str, bool | int | float | None]
    logits: Tensor


@contextmanager
def recorded_calls(model: nn.Module, most: int = MOST_CALLS) -> Iterator[list[RecordedCall]]:
    """The first calls of `model` inside of the block that were given nothing but tensors and plain values, and returned logits.

    A call that continues from a cache or from an encoder's states is passed over: those are objects of the model's own making.
    """
    calls: list[RecordedCall] = []

    def record(_: nn.Module, positional: tuple[Any, ...], named: dict[str, Any], outputs: Any) -> None:
        logits = getattr(outputs, "logits", None)
        if len(calls) == most or positional or not isinstance(logits, Tensor):
            return
        inputs = {name: value.detach().cpu().clone() for name, value in named.items() if isinstance(value, Tensor)}
        settings = {name: value for name, value in named.items() if not isinstance(value, Tensor)}
        if all(isinstance(value, bool | int | float | None) for value in settings.values()):
            calls.append(RecordedCall(inputs, settings, logits.detach().float().cpu().clone()))

    handle = model.register_forward_hook(record, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def largest_difference(folder: Path, auto_class: str, calls: list[RecordedCall]) -> float:
    """The largest difference of a logit, relative to the largest, when `calls` are repeated on the model in `folder` in a process without hflab.

    Raises:
        UserError: the model cannot be loaded or called there, or gives logits of another shape.
    """
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "calls.safetensors"
        tensors = {f"{number}.{name}": value.contiguous() for number, call in enumerate(calls) for name, value in call.inputs.items()}
        tensors |= {f"{number}.expected": call.logits.contiguous() for number, call in enumerate(calls)}
        save_file(tensors, file, {"plain": json.dumps([call.settings for call in calls])})
        outcome = run_without_hflab(_REPEAT, str(folder), auto_class, str(file), model=folder)
    if outcome.error is not None:
        raise UserError(f"In a process without hflab the model of {folder} does not work: {outcome.error}")
    return float(outcome.output.splitlines()[-1])


def check_same(folder: Path, auto_class: str, calls: list[RecordedCall]) -> float:
    """`largest_difference`, if it is small.

    Raises:
        UserError: the folder computes something else; also what `largest_difference` raises.
    """
    difference = largest_difference(folder, auto_class, calls)
    if not difference <= LARGEST_DIFFERENCE:  # also where it is no number
        raise UserError(
            f"In a process without hflab the model of {folder} computes other logits: they differ by {difference:.2g} of the largest, and at most "
            f"{LARGEST_DIFFERENCE:g} is allowed. Save the model again, with the code that it was trained by."
        )
    return difference
