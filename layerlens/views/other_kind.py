"""What kind of second side was given: a model, edits, or a text."""

from __future__ import annotations

from typing import Any


def told(other: Any) -> tuple[str, str]:
    """Return what the other run of two is, and how it is written; "" for a text."""
    from layerlens.model.lensmodel import LensModel
    from layerlens.run.edit_lists import code_of
    from layerlens.run.edits import Edit

    if isinstance(other, LensModel):
        return "model", other.name
    edits = [other] if isinstance(other, Edit) else other
    if isinstance(edits, list | tuple) and edits and isinstance(edits[0], Edit):
        return "edits", code_of(edits)
    return "text", ""
