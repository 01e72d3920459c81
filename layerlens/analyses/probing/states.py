"""Where recorded states are kept: in memory, or in a file of which one point is read at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Protocol

import numpy as np


class Points(Protocol):
    """States ``[n, d]`` point by point: a list, or what reads one at a time."""

    def __len__(self) -> int:
        """How many points."""

    def __getitem__(self, place: int, /) -> np.ndarray:
        """The states at one."""

    def __iter__(self) -> Iterator[np.ndarray]:
        """One after the other."""


class States:
    """The states of ``n`` examples at each of several points, ``[n, width]`` float32 each.

    The file is written and read, not mapped: pages of a map count as memory of the process.

    Parameters
    ----------
    points, total, width
        How many points, examples and numbers of each.
    limit
        Bytes; what is larger goes to a file that is deleted with this.

    Examples
    --------
    >>> for limit in (0, 1000):
    ...     kept = States(points=2, total=3, width=1, limit=limit)
    ...     for place in (0, 1):
    ...         kept.write(place, np.array([2, 0, 1]), np.array([[1.0], [2.0], [3.0]], np.float32))
    ...     kept.in_file, kept[1][:, 0].tolist()
    (True, [2.0, 3.0, 1.0])
    (False, [2.0, 3.0, 1.0])
    """

    def __init__(self, points: int, total: int, width: int, limit: int) -> None:
        self._points, self._shape = points, (total, width)
        self.in_file = 4 * points * total * width > limit
        if self.in_file:
            self._file = tempfile.TemporaryFile(prefix="layerlens-")  # noqa: SIM115
        else:
            self._arrays = [np.empty(self._shape, np.float32) for _ in range(points)]

    def write(self, place: int, examples: np.ndarray, states: np.ndarray) -> None:
        """Keep ``[k, width]`` states of the examples of these numbers ``[k]`` at one point."""
        if not self.in_file:
            self._arrays[place][examples] = states
            return
        cuts = np.flatnonzero(np.diff(examples) != 1) + 1  # what lies side by side goes at once
        for numbers, own in zip(np.split(examples, cuts), np.split(states, cuts), strict=True):
            self._file.seek(self._row(place, int(numbers[0])))
            self._file.write(np.ascontiguousarray(own, np.float32).data)

    def _row(self, place: int, example: int) -> int:
        total, width = self._shape
        return 4 * width * (place * total + example)

    def __len__(self) -> int:
        return self._points

    def __getitem__(self, place: int) -> np.ndarray:
        """All states ``[n, width]`` at one point; from the file a copy of one's own."""
        if not self.in_file:
            return self._arrays[place]
        found = np.empty(self._shape, np.float32)
        self._file.seek(self._row(place, 0))
        self._file.readinto(found.data.cast("B"))
        return found

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[place] for place in range(len(self)))


class Kept:
    """Some examples of all points, read one point at a time.

    Parameters
    ----------
    states
        Of all examples.
    kept
        ``[n]`` bool: which.
    """

    def __init__(self, states: Points, kept: np.ndarray) -> None:
        self._states, self._kept, self._all = states, kept, bool(kept.all())

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, place: int) -> np.ndarray:
        """Their states ``[k, d]`` at one point."""
        return self._states[place] if self._all else self._states[place][self._kept]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[place] for place in range(len(self)))
