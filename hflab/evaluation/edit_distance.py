"""How many symbols must be inserted, deleted or replaced to turn one sequence into another (Levenshtein, 1966)."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple


class Edits(NamedTuple):
    """The distance of a prediction to its nearest reference, and that reference's length."""

    distance: int
    length: int


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Return the Levenshtein distance of two sequences; a text is a sequence of its characters.

    A column of the table of distances is held as two integers of one bit per row: where the distance rises by one from row to row, and where
    it falls (Myers, 1999, "A fast bit-vector algorithm for approximate string matching", in the form of Hyyrö, 2003). So the time grows
    with `len(b)` alone while `len(a)` is some hundreds.
    """
    if not a:
        return len(b)
    rows_of: dict[Hashable, int] = {}
    for row, symbol in enumerate(a):
        rows_of[symbol] = rows_of.get(symbol, 0) | 1 << row
    every, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    rises, falls, distance = every, 0, len(a)
    for symbol in b:
        equal = rows_of.get(symbol, 0)
        diagonal = equal | (((equal & rises) + rises) ^ rises) | falls
        right_rises = (falls | ~(diagonal | rises)) & every
        right_falls = rises & diagonal
        distance += bool(right_rises & last) - bool(right_falls & last)
        right_rises = (right_rises << 1) | 1  # the first row of the table is 0, 1, 2 ...
        right_falls <<= 1
        rises = (right_falls | ~(diagonal | right_rises)) & every
        falls = right_rises & diagonal & every
    return distance


def edits_to_nearest(prediction: Sequence[Hashable], references: Sequence[Sequence[Hashable]]) -> Edits:
    """Return the distance to the nearest of `references`, of several equally near ones to the longest. Raises `ValueError` if there is none."""
    return min((Edits(edit_distance(reference, prediction), len(reference)) for reference in references), key=lambda edits: (edits[0], -edits[1]))
