"""What a view calls the lenses that it was given."""

from __future__ import annotations

import os
from typing import Any


def lens_words(lens: Any) -> list[str]:
    """Return a word for each lens that was given; one that is none stands as it is written."""
    from layerlens.analyses.lenses.readers import KINDS
    from layerlens.result.fitted import Fitted

    def word(one: Any) -> str:
        if isinstance(one, Fitted):
            return KINDS.get(one.kind, one.kind)
        return os.fspath(one) if isinstance(one, os.PathLike) else str(one)

    return [word(one) for one in lens] if isinstance(lens, list | tuple) else [word(lens)]
