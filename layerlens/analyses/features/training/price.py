"""What being on costs, steered while a dictionary is learned so that ``k`` features are on."""

from __future__ import annotations

import math
from collections.abc import Sequence

SLOW = 20.0
"""Powers of e by which the price rises in a whole training in which L0 stays e times its goal."""
FAST = {"relu": 2.0, "gated": 4.0, "jumprelu": 12.0}
"""How much dearer being on is at once where L0 is e times its goal; a threshold feels the price
only of what comes near it, and needs more."""
ANNEAL = 0.5
"""Share of the training in which the goal falls from the L0 of the first batch to ``k``."""


class Price:
    """The price of being on, in units of the squared error of an activation.

    A price that is set by hand gives an L0 that nobody asked for. It is steered as an engineer's
    controller is, by how far ``log L0`` is from its goal, now and summed over the training: the sum
    finds the price at which nothing is left to correct. The first part alone, which may reward
    being on where too few are, is the quadratic price ``(L0 / k - 1)^2`` of Rajamanoharan et al.
    (2024), Jumping Ahead. The goal begins at the L0 of the first batch and falls to ``k`` by the
    same factor in each batch: asked for ``k`` at once, features die before they have found
    anything.

    Parameters
    ----------
    kind
        Of the dictionary; those that choose ``k`` features pay nothing.
    k
        How many features are to be on for an activation.

    Examples
    --------
    >>> price = Price("relu", k=4)
    >>> for done in (0.0, 0.5, 0.6):
    ...     price.steer(64.0, 0.1, done)
    >>> price.now > 1
    True
    >>> price.steer(1.0, 0.1, 0.7)
    >>> price.now < 0
    True
    """

    def __init__(self, kind: str, k: int) -> None:
        self.fast, self.k = FAST.get(kind, 0.0), k
        self.log = self.off = self.first = 0.0

    @property
    def now(self) -> float:
        """For the next batch."""
        return math.exp(self.log) * (1 + self.fast * self.off)

    def steer(self, l0: float, share: float, done: float) -> None:
        """Take in how many features were on.

        Parameters
        ----------
        l0
            For an activation of the batch.
        share
            Of the training that the batch was.
        done
            Share of the training up to it.
        """
        self.first = self.first or max(l0, self.k)
        goal = self.k * (self.first / self.k) ** max(0.0, 1 - done / ANNEAL)
        off = math.log(max(l0, 0.1) / goal)
        self.off = max(-1.0, min(1.0, off))  # far off, it says little of how far
        self.log += SLOW * self.off * share

    def state(self) -> list[float]:
        """What :meth:`take` goes on from."""
        return [self.log, self.off, self.first]

    def take(self, state: Sequence[float]) -> None:
        """Go on from there."""
        self.log, self.off, self.first = state
