"""Text of tokens in figures: what is invisible shown, and only glyphs that a font here has."""

from __future__ import annotations

import unicodedata
from functools import cache

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

_WANTED = (
    "DejaVu Sans",
    "Noto Sans",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Hiragino Sans",
    "PingFang SC",
    "Yu Gothic",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Nirmala UI",
    "Arial Unicode MS",
    "Noto Emoji",
    "Segoe UI Emoji",
    "Noto Sans Symbols",
    "Noto Sans Symbols 2",
    "Segoe UI Symbol",
)
"""Outline fonts that have much; colour bitmap fonts are left out, matplotlib cannot draw them."""

_SHOWN = {" ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥", "\u00a0": "⍽"}


@cache
def families() -> tuple[str, ...]:
    """Return the font families to draw with, in order: the wanted ones that are installed."""
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return tuple(name for name in _WANTED if name in installed)


@cache
def _glyphs() -> frozenset[int]:
    """Return every code point that one of the fonts has."""
    found: set[int] = set()
    for family in families():
        path = font_manager.findfont(font_manager.FontProperties(family=family))
        found.update(FT2Font(path).get_charmap())
    return frozenset(found)


def drawable(text: str) -> str:
    """Return `text` with spaces, line ends and control characters made visible.

    A character that no installed font has is written as its code point, so that nothing turns
    into an empty box that looks like every other.
    """
    return "".join(map(_character, text))


@cache
def _character(char: str) -> str:
    if char in _SHOWN:
        return _SHOWN[char]
    kind = unicodedata.category(char)
    if kind in ("Mn", "Me", "Cf") and ord(char) in _glyphs():
        return char
    if kind[0] in "CZ" or ord(char) not in _glyphs():
        return f"\\u{ord(char):04x}"
    return char
