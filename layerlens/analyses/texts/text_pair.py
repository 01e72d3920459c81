"""Two texts that are compared position by position: a clean one and a corrupted one."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from layerlens.errors import InputError
from layerlens.model.integers import is_whole

if TYPE_CHECKING:
    from layerlens.model.text import Tokens

DIRECTIONS = {
    "denoise": "clean activations into the corrupted run",
    "noise": "corrupted activations into the clean run",
}
"""Which run is patched with the activations of which."""

Align = Sequence[tuple[int, int]]
"""Positions that belong together: (in the clean text, in the corrupted one)."""


@dataclass(frozen=True)
class Pair:
    """Two texts, and which of their positions belong together.

    Attributes
    ----------
    clean, corrupt
        One text each, without padding.
    direction
        ``denoise``: the corrupted run is patched with clean activations; ``noise``: the clean
        run with corrupted ones.
    partner
        For each position of the run that is patched, the position of the other run whose
        activation goes there; None where there is none.
    differing
        Positions of the run that is patched whose token is not its partner's.
    """

    clean: Tokens
    corrupt: Tokens
    partner: tuple[int | None, ...]
    differing: tuple[int, ...]
    direction: str = "denoise"

    @property
    def base(self) -> Tokens:
        """The text of the run that is patched."""
        return self.corrupt if self.direction == "denoise" else self.clean

    @property
    def source(self) -> Tokens:
        """The text of the run that activations are taken from."""
        return self.clean if self.direction == "denoise" else self.corrupt

    @property
    def words(self) -> str:
        """The direction in words."""
        return DIRECTIONS[self.direction]

    @property
    def plain(self) -> bool:
        """Whether equal positions belong together, and every one has its partner."""
        return self.partner == tuple(range(self.source.ids.shape[1]))

    @property
    def shared(self) -> int:
        """How many positions at the start have the same token at the same place in both texts.

        No activation differs there in a causal model, so patching one changes nothing. None where
        a decoder writes to two different sources, which reach every state.
        """
        if not self.base.given_alike(self.source):
            return 0
        for position, partner in enumerate(self.partner):
            if partner != position or position in self.differing:
                return position
        return len(self.partner)


def make_pair(
    clean: Tokens, corrupt: Tokens, align: Align | None = None, direction: str = "denoise"
) -> Pair:
    """Pair two texts of one row each.

    Parameters
    ----------
    clean, corrupt
        Of equal length, unless ``align`` is given.
    align
        Which positions belong together, as (clean, corrupted); the others are not patched. None
        pairs equal positions.
    direction
        ``denoise`` or ``noise``.

    Raises
    ------
    InputError
        If the lengths differ and nothing says what belongs together (both texts are shown, one
        under the other), or a position does not exist or is named twice.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> pair = make_pair(model.tokens([5, 6, 7]), model.tokens([5, 9, 7]))
    >>> pair.partner, pair.differing, pair.shared
    ((0, 1, 2), (1,), 1)
    """
    if direction not in DIRECTIONS:
        raise InputError(f"direction is {direction!r}; expected 'denoise' or 'noise'.")
    if len(clean.ids) != 1 or len(corrupt.ids) != 1:
        raise InputError("A pair is made of one clean text and one corrupted text.")
    clean, corrupt = row_of(clean, 0), row_of(corrupt, 0)
    n_clean, n_corrupt = clean.ids.shape[1], corrupt.ids.shape[1]
    if align is None:
        if n_clean != n_corrupt:
            raise InputError(_unequal(clean, corrupt))
        align = [(position, position) for position in range(n_clean)]
    links = _links(align, n_clean, n_corrupt)
    to_base = [(c, k) if direction == "denoise" else (k, c) for c, k in links]
    base, source = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
    partners = {there: here for here, there in to_base}
    partner = tuple(partners.get(position) for position in range(base.ids.shape[1]))
    ids, others = base.ids[0].tolist(), source.ids[0].tolist()
    other = base.numbered and not base.given_alike(source)  # of another picture all may differ
    differing = tuple(
        here
        for here, there in enumerate(partner)
        if there is None or other or ids[here] != others[there]
    )
    return Pair(clean, corrupt, partner, differing, direction)


def make_pairs(
    clean: Tokens, corrupt: Tokens, align: Any = None, direction: str = "denoise"
) -> list[Pair]:
    """Pair the rows of two batches, the first with the first and so on.

    Parameters
    ----------
    align
        As in :func:`make_pair`; for several texts one alignment each, or None.

    Raises
    ------
    InputError
        If the numbers of texts differ, or as in :func:`make_pair`.
    """
    if len(clean.ids) != len(corrupt.ids) or clean.single != corrupt.single:
        raise InputError(
            f"There are {_count(clean)} clean and {_count(corrupt)} corrupted: give one text "
            "each, or two lists of the same length."
        )
    aligns = [align] if clean.single else [None] * len(clean.ids) if align is None else list(align)
    if len(aligns) != len(clean.ids):
        raise InputError(
            f"align has {len(aligns)} entries for {len(clean.ids)} pairs: give one each."
        )
    rows = range(len(clean.ids))
    return [make_pair(row_of(clean, i), row_of(corrupt, i), aligns[i], direction) for i in rows]


def row_of(tokens: Tokens, row: int) -> Tokens:
    """One text of a batch, without its padding."""
    keep = tokens.mask[row]
    columns = keep.nonzero().flatten().tolist()
    if tokens.single and len(columns) == tokens.ids.shape[1]:
        return tokens
    return replace(tokens.chosen([row], columns), single=True)


def _count(tokens: Tokens) -> str:
    return "one text" if tokens.single else f"a list of {len(tokens.ids)}"


def _links(align: Align, n_clean: int, n_corrupt: int) -> list[tuple[int, int]]:
    """Positions that belong together, counted from the start."""
    links: list[tuple[int, int]] = []
    for link in align:
        if isinstance(link, str) or not isinstance(link, Sized) or len(link) != 2:
            raise InputError(f"align holds pairs (clean position, corrupted position), not {link}.")
        places = []
        for position, length, name in zip(
            link, (n_clean, n_corrupt), ("clean", "corrupted"), strict=True
        ):
            if not is_whole(position) or not -length <= position < length:
                raise InputError(
                    f"align names position {position} of the {name} text, which has {length} "
                    f"tokens (0 to {length - 1})."
                )
            places.append(position % length)
        links.append((places[0], places[1]))
    for side, name in enumerate(("clean", "corrupted")):
        named = [link[side] for link in links]
        twice = [position for position in named if named.count(position) > 1]
        if twice:
            raise InputError(f"align names position {twice[0]} of the {name} text twice.")
    if not links:
        raise InputError("align is empty: name at least one pair of positions.")
    return links


def _unequal(clean: Tokens, corrupt: Tokens) -> str:
    """The message for texts of unequal length, with their tokens one under the other."""
    rows = [
        [f"{position}:{text!r}" for position, text in enumerate(tokens.strings[0])]
        for tokens in (clean, corrupt)
    ]
    both = range(min(map(len, rows)))
    widths = [
        max(len(row[i]) if i < len(row) else 0 for row in rows) for i in range(max(map(len, rows)))
    ]
    lines = [
        "  ".join(cell.ljust(widths[i]) for i, cell in enumerate(row)).rstrip() for row in rows
    ]
    same = next((i for i in both if clean.ids[0, i] != corrupt.ids[0, i]), len(both))
    return (
        f"The clean text has {len(rows[0])} tokens and the corrupted one {len(rows[1])} (they part "
        f"at position {same}), so their positions do not match: change a word, or say which "
        "belong together with align=[(clean position, corrupted position), ...].\n"
        f"clean:   {lines[0]}\ncorrupt: {lines[1]}"
    )
