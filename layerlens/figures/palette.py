"""The colours of the figures, light and dark: those of the widgets (js/src/theme)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from matplotlib import colormaps
from matplotlib.colors import Colormap, LinearSegmentedColormap

from layerlens.errors import ResultError

Theme = Literal["light", "dark"]


@dataclass(frozen=True)
class Palette:
    """Colours of one theme, as hex strings."""

    page: str
    ink: str
    faint: str
    missing: str
    base: str
    negative: str
    tracked: str
    lines: tuple[str, ...]


_LINES = (
    "#2196f3", "#e91e63", "#4caf50", "#ff9800", "#9c27b0", "#00bcd4", "#f44336", "#8bc34a",
)  # fmt: skip

_PALETTES: dict[str, Palette] = {
    "light": Palette(
        "#ffffff", "#1a1e24", "#5d6772", "#e2e5ea", "#1565c0", "#b3261e", "#8e24aa", _LINES
    ),
    "dark": Palette(
        "#1e1e1e", "#e6e8eb", "#989fa8", "#36383c", "#5aa9f5", "#f28b82", "#ce93d8", _LINES
    ),
}


def palette(theme: str) -> Palette:
    """Return the palette of a theme; ``auto`` is light, as paper is."""
    if theme not in ("auto", *_PALETTES):
        raise ResultError(f"There is no theme '{theme}'; choose auto, light or dark.")
    return _PALETTES["light" if theme == "auto" else theme]


def color_map(name: str, colors: Palette) -> Colormap:
    """Return a colour map.

    ``base`` and ``tracked`` begin with the page's colour, ``negative`` ends with it; ``signed`` has
    it in the middle, from red (negative) to blue (positive); other names are matplotlib's.
    """
    if name == "signed":
        ends = [colors.negative, colors.page, colors.base]
        made: Colormap = LinearSegmentedColormap.from_list("layerlens signed", ends)
    elif name == "negative":
        made = LinearSegmentedColormap.from_list("layerlens", [colors.negative, colors.page])
    elif name in ("base", "tracked"):
        made = LinearSegmentedColormap.from_list("layerlens", [colors.page, getattr(colors, name)])
    else:
        made = colormaps[name]
    return made.with_extremes(bad=colors.missing)


def ink_on(rgb: tuple[float, float, float], colors: Palette) -> str:
    """Return the darker or lighter text colour, whichever reads better on `rgb` (each 0-1)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#12161c" if luminance > 0.185 else "#ffffff"
