"""Where the positions of a picture or a sound lie in it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """Patches of a picture, row by row, behind a few positions that are no patches.

    Attributes
    ----------
    rows, columns
        How many patches.
    height, width
        Of one patch, in pixels.
    first
        Position of the patch at the top left; those before it belong to no place (the class
        token, registers).
    """

    rows: int
    columns: int
    height: int
    width: int
    first: int = 0

    @property
    def labels(self) -> tuple[str, ...]:
        """What each position is called: ``[cls]``, ``[reg1]``, then ``r0c0``, ``r0c1``.

        Examples
        --------
        >>> Grid(1, 2, 4, 4, first=1).labels
        ('[cls]', 'r0c0', 'r0c1')
        """
        before = tuple("[cls]" if i == 0 else f"[reg{i}]" for i in range(self.first))
        patches = tuple(f"r{row}c{col}" for row in range(self.rows) for col in range(self.columns))
        return before + patches

    def place(self, position: int) -> tuple[int, int] | None:
        """Row and column of a position; None where it is no patch."""
        if position < self.first:
            return None
        return divmod(position - self.first, self.columns)

    def box(self, position: int) -> tuple[int, int, int, int] | None:
        """Top, left, bottom and right of a position's patch in pixels; None where it is none."""
        place = self.place(position)
        if place is None:
            return None
        top, left = place[0] * self.height, place[1] * self.width
        return top, left, top + self.height, left + self.width


@dataclass(frozen=True)
class Frames:
    """Frames of a sound, one after the other.

    Attributes
    ----------
    seconds
        From one frame to the next.
    count
        How many.
    """

    seconds: float
    count: int

    @property
    def labels(self) -> tuple[str, ...]:
        """When each frame begins, in seconds.

        Examples
        --------
        >>> Frames(0.02, 3).labels
        ('0.00s', '0.02s', '0.04s')
        """
        digits = 2 if self.seconds >= 0.01 else 3
        return tuple(f"{index * self.seconds:.{digits}f}s" for index in range(self.count))
