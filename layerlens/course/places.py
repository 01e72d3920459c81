"""Where the notebooks lie: those of the guide, and the chapters of the course in a folder of it."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def guide() -> Path:
    """Return the folder: inside an installed package, beside it in a checkout."""
    installed = PACKAGE / "notebooks"
    return installed if installed.is_dir() else PACKAGE.parent / "notebooks"


def chapters() -> list[Path]:
    """Return the sources of the chapters, in their order."""
    return sorted((guide() / "course").glob("*.ipynb"))
