"""What several texts are called along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from layerlens.model.text import Tokens


def text_names(texts: Sequence[Tokens]) -> np.ndarray:
    """A name for each text: its number, then the text, or its last token where it was given as ids.

    Parameters
    ----------
    texts
        Of one row each.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> text_names([model.tokens("cat dog"), model.tokens([1, 5])]).tolist()
    ['0: cat dog', '1: bird']
    """
    return np.array(
        [f"{row}: {text.texts[0] or text.strings[0][-1]}" for row, text in enumerate(texts)]
    )


def row_named(name: str) -> int:
    """The number of the text that has this name.

    Examples
    --------
    >>> row_named("12: cat dog")
    12
    """
    return int(name.partition(":")[0])
