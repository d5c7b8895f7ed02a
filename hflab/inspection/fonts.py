"""Fonts that have the signs of all labels. Knows nothing about what is labelled."""

from collections.abc import Iterable
from pathlib import Path

BASE_FAMILY = "DejaVu Sans"  # comes with matplotlib
BEFORE_OTHERS = ("cjk", "noto", "sans", "regular")  # what a good font for labels has in its file name, the weightiest first
RARELY_LEGIBLE = ("bold", "italic", "oblique", "serif", "light", "mono", "lastresort")


def font_families(labels: Iterable[str]) -> tuple[list[str], str]:
    """The font families to draw `labels` with, in the order in which matplotlib shall look for a sign, and the signs that none of them has.

    Fonts are looked for among all that matplotlib finds on this machine now; one that is needed is made known to matplotlib.
    """
    from matplotlib import font_manager

    base = font_manager.findfont(BASE_FAMILY)
    missing = _without(base, "".join(sorted(set("".join(labels)))))
    families = [BASE_FAMILY]
    for path in sorted(font_manager.findSystemFonts(), key=_rank) if missing else ():
        left = _without(path, missing)
        if len(left) < len(missing):
            if all(known.fname != path for known in font_manager.fontManager.ttflist):
                font_manager.fontManager.addfont(path)
            families.append(font_manager.FontProperties(fname=path).get_name())
            missing = left
        if not missing:
            break
    return families, missing


def _without(path: str, signs: str) -> str:
    """Those of `signs` that the font file lacks; all, if it is no font that matplotlib reads."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
    except (RuntimeError, OSError):
        return signs
    return "".join(sign for sign in signs if not font.get_char_index(ord(sign)))


def _rank(path: str) -> tuple[int, list[bool], str]:
    """Plain fonts for many scripts first; the name last, so that the order is the same every time."""
    name = Path(path).name.lower()
    return sum(word in name for word in RARELY_LEGIBLE), [word not in name for word in BEFORE_OTHERS], name
