"""The colours of the figures, light and dark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
    lines: tuple[str, ...]


_LINES = (
    "#2196f3", "#e91e63", "#4caf50", "#ff9800", "#9c27b0", "#00bcd4", "#f44336", "#8bc34a",
)  # fmt: skip

_PALETTES: dict[str, Palette] = {
    "light": Palette("#ffffff", "#1f2328", "#6e7781", "#e4e4e4", "#1565c0", _LINES),
    "dark": Palette("#1e1e1e", "#e6e6e6", "#9a9a9a", "#3a3a3a", "#64b5f6", _LINES),
}


def palette(theme: str) -> Palette:
    """Return the palette of a theme; ``auto`` is light, as paper is."""
    if theme not in ("auto", *_PALETTES):
        raise ResultError(f"There is no theme '{theme}'; choose auto, light or dark.")
    return _PALETTES["light" if theme == "auto" else theme]


def sequential(colors: Palette, *, high_is_strong: bool = True) -> Colormap:
    """Return a colour map from the page's colour to the theme's base colour, or back."""
    ends = [colors.page, colors.base] if high_is_strong else [colors.base, colors.page]
    made = LinearSegmentedColormap.from_list("layerlens", ends)
    return made.with_extremes(bad=colors.missing)


def ink_on(rgb: tuple[float, float, float], colors: Palette) -> str:
    """Return the darker or lighter text colour, whichever reads better on `rgb` (each 0-1)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#1f2328" if luminance > 0.19 else "#ffffff"
