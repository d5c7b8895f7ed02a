"""Padding in batches of sound: whether it reaches what a model makes of the clip before it, and running rows so that it cannot.

    if padding_reaches(model, inputs):
        logits = run_apart(model, inputs, num_samples)

Group norm takes statistics over all of a row, padding included (wav2vec 2.0 base, HuBERT base), and where convolutions follow each other the zeros
after a clip come back into it (SEW, Data2Vec, Conformer), mask or not. Which models these are is measured, not looked up: a row of noise is run by
itself and before padding. Shapes: `B` rows, `N` samples or frames of features, `T'` frames of the model, `D` what it makes of a frame.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .model_properties import evaluation_mode, innermost

PROBE_SAMPLES, PROBE_FRAMES = 8000, 50  # half a second of sound, before as much padding
TOLERANCE = 0.02  # of the standard deviation of what comes out: far above rounding, in half precision too, and below what padding does
SAMPLES, FEATURES, MASK = "input_values", "input_features", "attention_mask"

_MEASURED: WeakKeyDictionary[nn.Module, dict[bool, bool]] = WeakKeyDictionary()  # whether padding reaches, by whether there is a mask


def padding_reaches(model: nn.Module, inputs: dict[str, Tensor]) -> bool:
    """Whether zeros after a clip change what the model makes of it in evaluation; measured once for each model, with a mask if `inputs` have one.

    Args:
        model: any model of sound, in whatever wrapper.
        inputs: what its feature extractor made, on the model's device; their values do not matter.
    """
    bare, masked = innermost(model), MASK in inputs
    known = _MEASURED.setdefault(bare, {})
    if masked not in known:
        known[masked] = _measure(model, inputs[bare.main_input_name], masked)
    return known[masked]


def _measure(model: nn.Module, like: Tensor, masked: bool) -> bool:
    name = innermost(model).main_input_name
    size = PROBE_SAMPLES if name == SAMPLES else PROBE_FRAMES
    noise = torch.randn(1, size, *like.shape[2:], generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype)
    alone = {name: noise}
    padded = {name: torch.cat([noise, torch.zeros_like(noise)], dim=1)}
    if masked:
        alone[MASK] = torch.ones(1, size, dtype=torch.long, device=like.device)
        padded[MASK] = torch.cat([alone[MASK], torch.zeros_like(alone[MASK])], dim=1)
    with evaluation_mode(model):
        expected, found = (outputs_of(model, inputs).float() for inputs in (alone, padded))
    difference = (found[:, : expected.shape[1]] - expected).abs().max()
    return bool(difference > TOLERANCE * expected.std())


def outputs_of(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """What the model makes of rows that are long enough for it (`fill_up`), (B, T', D): logits, or the states that stand in their place."""
    return model(**inputs, **_spec_augment_arguments(model, inputs))[0]


def _spec_augment_arguments(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """For training on rows that are all shorter than a span of SpecAugment: that no frame is hidden.

    Transformers' models draw spans of `mask_time_length` frames, pass over shorter rows beside a longer one, and raise an error where the longest is
    shorter. Other rows, and models that hide nothing, get no argument.
    """
    bare: Any = innermost(model)
    config, read = bare.config, inputs[bare.main_input_name]
    draws_spans = getattr(config, "mask_time_min_masks", None) is not None and getattr(config, "apply_spec_augment", True)  # as transformers' do
    if not model.training or not draws_spans or config.mask_time_prob == 0:
        return {}
    num_frames = read.shape[1]
    if bare.main_input_name == SAMPLES:
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            num_frames = (num_frames - kernel) // stride + 1
    if num_frames >= config.mask_time_length:
        return {}
    return {"mask_time_indices": torch.zeros(len(read), num_frames, dtype=torch.bool, device=read.device)}


def run_apart(model: nn.Module, inputs: dict[str, Tensor], lengths: Tensor, nearness: float = 0.0) -> Tensor:
    """Run rows of about one length together and those of other lengths by themselves, each cut to the longest beside it.

    Args:
        model: the model.
        inputs: padded rows (B, N, ...).
        lengths: samples or frames of features of each row, (B,) int64, none too short for the model.
        nearness: share of the longest by which a row may be shorter; 0: no row is padded.

    Returns:
        (B, T', D), zeros after the last frame of the rows that were run together.
    """
    outputs: dict[int, Tensor] = {}
    for rows in _near_rows(lengths, nearness):
        width = int(lengths[rows].max())
        made = outputs_of(model, {name: values[rows, :width] for name, values in inputs.items()})
        outputs |= dict(zip(rows.tolist(), made, strict=True))
    longest = max(len(row) for row in outputs.values())
    return torch.stack([F.pad(outputs[row], (0, 0, 0, longest - len(outputs[row]))) for row in range(len(lengths))])


def _near_rows(lengths: Tensor, nearness: float) -> list[Tensor]:
    """Rows whose lengths are near to each other, the longest first."""
    groups: list[list[int]] = []
    for row in lengths.argsort(descending=True).tolist():
        if groups and lengths[row] >= (1 - nearness) * lengths[groups[-1][0]]:
            groups[-1].append(row)
        else:
            groups.append([row])
    return [torch.tensor(group, device=lengths.device) for group in groups]


def least_samples(config: Any) -> int:
    """Fewest samples of which a model that reads waveforms makes a frame: what its convolutions see at once."""
    samples = getattr(config, "squeeze_factor", 1)  # SEW makes one frame of several of its convolutions
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return int(samples)


def fill_up(model: nn.Module, inputs: dict[str, Tensor], lengths: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Take rows of waveforms that are too short for a frame for as long as it needs, the rest silent; features come long enough.

    Returns:
        The inputs and the lengths (B,) with that, of which every row has at least one frame.
    """
    bare = innermost(model)
    if bare.main_input_name != SAMPLES:
        return inputs, lengths
    least = least_samples(bare.config)
    missing = max(0, least - inputs[SAMPLES].shape[1])
    filled = {**inputs, SAMPLES: F.pad(inputs[SAMPLES], (0, missing))}
    if MASK in inputs:
        filled[MASK] = F.pad(inputs[MASK], (0, missing)).index_fill(1, torch.arange(least, device=lengths.device), 1)
    return filled, lengths.clamp(min=least)
