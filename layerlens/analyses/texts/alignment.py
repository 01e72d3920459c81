"""Which positions of two texts of unequal length belong together, as far as tokens tell."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher


def propose(clean: Sequence[int], corrupt: Sequence[int]) -> list[tuple[int, int]]:
    """Pair equal tokens in their order; what lies between them is paired from its end.

    The last token of a name is where a model puts together what it knows of it, so of names of
    unequal length the last tokens belong together.

    Parameters
    ----------
    clean, corrupt
        Token ids.

    Returns
    -------
    list of (int, int)
        Position in the clean text and in the corrupted one; both grow. The longest runs of equal
        tokens are found first, as in Python's difflib.

    Examples
    --------
    >>> propose([1, 2, 3, 9], [1, 5, 6, 7, 9])
    [(0, 0), (1, 2), (2, 3), (3, 4)]
    """
    links: list[tuple[int, int]] = []
    here = there = 0
    for block in SequenceMatcher(None, clean, corrupt, autojunk=False).get_matching_blocks():
        gap = min(block.a - here, block.b - there)
        links += zip(range(block.a - gap, block.a), range(block.b - gap, block.b), strict=True)
        here, there = block.a + block.size, block.b + block.size
        links += zip(range(block.a, here), range(block.b, there), strict=True)
    return links
