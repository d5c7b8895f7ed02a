"""A reading as one HTML page that needs nothing else: no network, no other file, and for its tables no script either.

Knows the numbers and labels of a reading, nothing of models and pictures. All text is escaped by the template engine, the numbers of all maps travel
as one piece of JSON, and the page's own policy forbids it to fetch anything.
"""

import base64
import math
from importlib import resources
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from .maps import AttentionMaps, Reading, StateTrace, Token

STEPS = 10_000  # weights travel as whole numbers of ten-thousandths
MIDDLING, STRONG = 0.3, 0.5  # weights from which on a number is written in the other colour, on a dark page and on a light one
TOKENS_PER_LINE = 40  # of a trace
NO_NUMBER = "-"
UPRIGHT = 0x2E7F  # signs beyond this code point, Chinese among them, stand upright in a column


def write_page(reading: Reading, name: str, notes: tuple[str, ...] = ()) -> str:
    """Return the page about what model `name` did; `notes` are sentences shown above all else."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    files = resources.files(__package__)
    template = environment.from_string((files / "page_template.html").read_text(encoding="utf-8"))
    return template.render(
        name=name,
        reading=reading,
        notes=notes,
        style=(files / "page_style.css").read_text(encoding="utf-8"),
        script=(files / "page_script.js").read_text(encoding="utf-8"),
        sections=[_section(maps) for maps in reading.maps],
        trace=None if reading.trace is None else _trace(reading.trace),
    )


def _section(maps: AttentionMaps) -> dict[str, Any]:
    """What the template says of one kind of attention: its first map as a table, and the numbers of all maps for the script."""
    L, N, T, S = maps.weights.shape
    return {
        "maps": maps,
        "num_layers": L,
        "num_heads": N,
        "size": f"{_count(L, 'layer')}, {_count(N, 'head')}, {_count(T, 'row')}, {_count(S, 'column')}",
        "rows": [_side(token) for token in maps.rows],
        "columns": [_side(token) for token in maps.columns],
        "cells": _cells(maps.weights[0, 0], hides_later=maps.hides_later),
        "data": {
            "shape": [L, N, T, S],
            "hidesLater": maps.hides_later,
            "weights": base64.b64encode(np.rint(maps.weights * STEPS).astype("<u2").tobytes()).decode("ascii"),
        },
    }


def _side(token: Token) -> dict[str, str]:
    """A token beside a row or above a column; `turn` says how it is written above a narrow column."""
    turned = "down" if any(ord(sign) > UPRIGHT for sign in token.label) else "up"
    return {"label": token.label, "kind": token.kind, "turn": "flat" if len(token.label) <= 2 else turned}


def _cells(weights: np.ndarray, *, hides_later: bool) -> list[list[dict[str, str]]]:
    """The squares of a map (T, S), row by row."""
    return [[_cell(float(weight), hidden=hides_later and s > t) for s, weight in enumerate(row)] for t, row in enumerate(weights)]


def _cell(weight: float, *, hidden: bool) -> dict[str, str]:
    """A square; `color` is the root of the weight, so that shares of a few hundredths are seen beside large ones."""
    if hidden:
        return {"text": NO_NUMBER, "color": "0", "style": "later"}
    return {"text": f"{weight:.4f}", "color": f"{math.sqrt(weight):.3f}", "style": _ink(weight)}


def _ink(weight: float) -> str:
    """The class that decides in which colour a number stands on the colour of its square."""
    return "strong" if weight >= STRONG else "middling" if weight >= MIDDLING else ""


def _trace(trace: StateTrace) -> dict[str, Any]:
    """Lines of at most `TOKENS_PER_LINE` tokens, each with bars of surprisal and a band for each part of the state."""
    top = max(1.0, float(np.nan_to_num(trace.surprisal).max()))
    lines = []
    for start in range(0, len(trace.tokens), TOKENS_PER_LINE):
        part = slice(start, start + TOKENS_PER_LINE)
        bands = {name: [_band_cell(float(change)) for change in changes[part]] for name, changes in trace.changes.items()}
        bars = [_bar(float(bits), top) for bits in trace.surprisal[part]]
        lines.append({"tokens": [_side(token) for token in trace.tokens[part]], "bars": bars, "bands": bands})
    return {"lines": lines, "mean": f"{trace.mean_surprisal:.2f}", "top": f"{top:.1f}", "num_tokens": len(trace.tokens)}


def _bar(bits: float, top: float) -> dict[str, str]:
    """A bar of surprisal, `height` in shares of the highest; none where there is no number."""
    return {"text": NO_NUMBER, "height": "0"} if math.isnan(bits) else {"text": f"{bits:.2f}", "height": f"{bits / top:.3f}"}


def _band_cell(change: float) -> dict[str, str]:
    return {"text": f"{change:.3f}", "color": f"{change:.3f}", "style": _ink(change**2)}


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
