"""Which rows train and which are held out, fixed by the content of the rows alone; and fewer labels for experiments with few.

    splits = split_by_hash(examples, {"validation": 0.1, "test": 0.1})
    few = take_few(splits["train"], seed=1, per_class=10)

An example is a pair (input, output): a source and a target, a text and the name of its class, or words and the names of their classes.
This module knows nothing about files, columns or tokens.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from .splits import DRAW_RANGE, share_ranges


class Example(NamedTuple):
    """A labelled row."""

    input: Any
    """The source or text, or the list of words."""
    output: Any
    """The target, the name of the class, or the list of the words' classes."""


class SourceGroup(NamedTuple):
    """A source with every target that it is given anywhere."""

    source: str
    targets: list[str]


def example_key(example: Example) -> str:
    """The input as one string: rows with equal keys fall into one split."""
    return example.input if isinstance(example.input, str) else "\x1f".join(example.input)


def split_by_hash(examples: Sequence[Example], shares: dict[str, float], keys: Sequence[str] | None = None) -> dict[str, list[Example]]:
    """Draw rows by a hash of their key, so that the split of a row changes neither with other rows nor with their order.

    Args:
        examples: rows in any order; the order is kept within a split.
        shares: of each held-out split, 0 to 1; the rest is "train". The shares are met on average, not exactly.
        keys: rows with equal keys fall into one split; default: `example_key` of each.
    """
    ranges = share_ranges({name: share for name, share in shares.items() if share > 0}, DRAW_RANGE)
    drawn: dict[str, list[Example]] = {name: [] for name in ranges}
    for example, key in zip(examples, keys or [example_key(example) for example in examples], strict=True):
        draw = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:4], "big")
        drawn[next(name for name, (start, stop) in ranges.items() if start <= draw < stop)].append(example)
    return drawn


def linked_keys(examples: Sequence[Example]) -> list[str]:
    """A key for each pair of texts that is equal for pairs which share a source or a target, directly or through other pairs.

    It is the smallest source of the linked pairs, so that it depends on their content alone.
    """
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(node: tuple[str, str]) -> tuple[str, str]:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for source, target in examples:
        parent[root(("source", source))] = root(("target", target))
    smallest: dict[tuple[str, str], str] = {}
    for source, _ in examples:
        linked = root(("source", source))
        smallest[linked] = min(source, smallest.get(linked, source))
    return [smallest[root(("source", source))] for source, _ in examples]


def take_few(examples: Sequence[Example], *, seed: int, per_class: int | None = None, fraction: float | None = None) -> list[Example]:
    """The examples whose labels an experiment with few labels may use.

    Which they are depends on the seed and the examples' content, not on their order; with one seed, fewer are always a part of more.

    Args:
        examples: texts with the names of their classes.
        seed: of the draw.
        per_class: so many of each class, all of a smaller one.
        fraction: this share of each class, 0 to 1, rounded, at least one of each. Exactly one of the two must be given.
    """
    assert (per_class is None) != (fraction is None), "one of the two"
    ranked: dict[str, list[tuple[bytes, int]]] = {}
    for index, example in enumerate(examples):
        rank = hashlib.sha256(f"{seed}\0{example_key(example)}".encode()).digest()
        ranked.setdefault(example.output, []).append((rank, index))
    chosen: set[int] = set()
    for members in ranked.values():
        count = per_class if per_class is not None else max(1, round((fraction or 0.0) * len(members)))
        chosen.update(index for _, index in sorted(members)[:count])
    return [example for index, example in enumerate(examples) if index in chosen]


def group_by_source(examples: Sequence[Example]) -> list[SourceGroup]:
    """Each source once, in the order of its first appearance, with its distinct targets in theirs."""
    targets: dict[str, dict[str, None]] = {}
    for source, target in examples:
        targets.setdefault(source, {})[target] = None
    return [SourceGroup(source, list(of_source)) for source, of_source in targets.items()]
