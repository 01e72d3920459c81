"""Write tables.ts: the colour tables of the web views, taken from matplotlib.

Run after a change of matplotlib's tables or of the list below:
``python js/src/theme/make_tables.py``.
"""

from pathlib import Path

from matplotlib import colormaps

NAMES = ("viridis", "cividis")


STEP = 5
"""Every fifth of 256 colours, both ends included; a line between them is off by 1 of 255 at
most (viridis) or by 5 (at the bend of cividis)."""


def table(name: str) -> str:
    """Give the colours of one table as 6 hexadecimal digits each, without separators."""
    rgba = colormaps[name].resampled(256)(range(0, 256, STEP), bytes=True)
    return "".join(f"{r:02x}{g:02x}{b:02x}" for r, g, b, _ in rgba)


def main() -> None:
    """Write the TypeScript file beside this script."""
    lines = ["/** Made by make_tables.py from matplotlib's tables; 52 colours of 6 digits. */"]
    lines += [f'export const {name} =\n  "{table(name)}";' for name in NAMES]
    Path(__file__).with_name("tables.ts").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
