"""Which rows of a lens are read at each site of a pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from layerlens.analyses.lenses.points import Point
from layerlens.model.sites import Site

Reads = Callable[[Point], tuple[Site, ...]]
"""The sites whose sum a lens reads at a point; of most lenses the point's own alone."""


def own_site(point: Point) -> tuple[Site, ...]:
    """Where the state of a point itself is."""
    return (point.site,)


class RowsRead:
    """The rows of one pass: all points in the first way to read, then those of the next.

    Parameters
    ----------
    points
        Which points.
    reads
        One for each way.
    """

    def __init__(self, points: Sequence[Point], reads: Sequence[Reads]) -> None:
        self._at: dict[Site, list[int]] = {}
        self._missing: list[int] = []
        self._sums: dict[int, Tensor] = {}
        for of in reads:
            for point in points:
                sites = of(point)
                for site in sites:
                    self._at.setdefault(site, []).append(len(self._missing))
                self._missing.append(len(sites))

    @property
    def sites(self) -> list[Site]:
        """All that have to be seen."""
        return list(self._at)

    def whole(self, site: Site, state: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The rows that miss nothing any more with what is at one more site, and their states."""
        for row in self._at.get(site, ()):
            before = self._sums.pop(row, None)
            found = state if before is None else before + state
            self._missing[row] -= 1
            if self._missing[row]:
                self._sums[row] = found
            else:
                yield row, found
