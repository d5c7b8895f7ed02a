"""Models of equal size: the width, or any other whole number, that brings a parameter count closest to a wanted one.

    width = closest(range(4, 1025, 4), lambda width: count_parameters(lambda: build(width)), wanted=10_000)

Knows nothing about what models are for.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn


def count_parameters(build: Callable[[], nn.Module]) -> int:
    """Trainable parameters of what `build` makes, without allocating them."""
    with torch.device("meta"):
        model = build()
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def closest(values: Sequence[int], count: Callable[[int], int], wanted: int) -> int:
    """That of `values`, in rising order, whose `count` is closest to `wanted`; of two as close, the smaller.

    Args:
        values: at least one; the count must rise with them.
        count: parameters at a value; called about log2(len(values)) times.
        wanted: parameters.
    """
    low, high = 0, len(values) - 1  # the first value that reaches `wanted` is in values[low : high + 1], or none does
    while low < high:
        middle = (low + high) // 2
        if count(values[middle]) >= wanted:
            high = middle
        else:
            low = middle + 1
    neighbours = values[max(0, low - 1) : low + 1]
    return min(neighbours, key=lambda value: (abs(count(value) - wanted), value))
