"""One edited run of many: what is changed, and from where on that can show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from layerlens.model.sites import GLOBAL, Site
from layerlens.run.changes import Change

OnCells = Callable[[Sequence[int], Tensor], None]
"""Called with the numbers of finished cells, and their states after the last block at the last
position ``[cell, d_model]``."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One edited run.

    Parameters
    ----------
    changes
        With positions, for the one text of the base; those at one site in order.
    """

    changes: tuple[Change, ...]

    @cached_property
    def layer(self) -> int:
        """The first block that runs differently; -1 if that is before the first block."""
        return min(first_layer(change.site) for change in self.changes)

    @cached_property
    def position(self) -> int:
        """The first position that may come out differently."""
        return min(min(change.positions or (0,)) for change in self.changes)


def first_layer(site: Site) -> int:
    """The first block that a change of a site reaches; -1 for what comes before all blocks."""
    if site.kind in GLOBAL:
        return -1
    return site.block + 1 if site.kind == "resid_post" else site.block
