"""Orders of one model's units in which its weights are most like another's: weight matching."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from layerlens.analyses.grafting.symmetries import Slot, Units, numbers_of

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

ENOUGH = 1e-6
"""Gain of a new order, as a share of what all products are, below which it is rounding."""
MOST_ROUNDS = 100
"""It ends by itself, because the sum of products grows and there are finitely many orders."""


@dataclass(frozen=True, eq=False)
class Matched:
    """What came of a matching.

    Attributes
    ----------
    orders
        For each of the units, ``[unit]``: which of the other's units stands at each place.
    numbers
        The other's parameters in that order, by name; those without units are left out.
    rounds
        How often all units were gone through.
    """

    orders: list[Tensor]
    numbers: dict[str, Tensor]
    rounds: int


def match(
    model: LensModel,
    other: LensModel,
    units: Sequence[Units],
    seed: int,
    tick: Callable[[], None] = lambda: None,
) -> Matched:
    """Find orders of the other's units in which its weights have the largest product with these.

    One kind of units after the other gets its best order while all others stay as they are, which
    is a linear assignment, until none gets a better one. What is found is an optimum of each, not
    of all together.

    Parameters
    ----------
    units
        Of :func:`units_of`, in the order of the first round; a stream has to come first, because
        only its channels meet an axis that stays as it is (the vocabulary's).
    seed
        Of the order in which the units of later rounds come.
    tick
        Called between assignments.
    """
    own, theirs = numbers_of(model, units), numbers_of(other, units)
    orders = [torch.arange(one.count) for one in units]
    random = torch.Generator().manual_seed(seed)
    places, rounds, better = list(range(len(units))), 0, True
    while better and rounds < MOST_ROUNDS:
        better, rounds = False, rounds + 1
        for place in places:
            tick()
            order = _best(units[place], own, theirs)
            if order is not None:
                units[place].reorder(theirs, order)
                orders[place] = orders[place][order]
                better = True
        places = torch.randperm(len(units), generator=random).tolist()
    return Matched(orders, theirs, rounds)


def _best(units: Units, own: dict[str, Tensor], theirs: dict[str, Tensor]) -> Tensor | None:
    """The best order of one kind of units beside what the others are now; None if it is as now."""
    products, shared = (_products(slots, own, theirs) for slots in (units.slots, units.shared))
    if units.shared:
        order = _best_of_groups(products, shared)
    else:
        order = linear_sum_assignment(products, maximize=True)[1]
    found = torch.from_numpy(order)
    gain = _along(products, found) - np.trace(products)
    gain += _along(shared, units.of_groups(found)) - np.trace(shared) if units.shared else 0.0
    least = ENOUGH * (np.abs(products).max(1).sum() + np.abs(shared).sum(initial=0.0))
    return found if gain > least else None


def _products(
    slots: Sequence[Slot], own: dict[str, Tensor], theirs: dict[str, Tensor]
) -> np.ndarray:
    """``[own unit, other's unit]`` float64: products of the units' weights, summed over slots."""
    total = np.zeros((len(slots[0].index),) * 2) if slots else np.zeros((0, 0))
    for slot in slots:
        mine = slot.rows(own[slot.name])
        total += (mine @ slot.rows(theirs[slot.name]).to(mine.device).T).cpu().double().numpy()
    return total


def _along(products: np.ndarray, order: Tensor) -> float:
    """Sum of the products of units with those that stand at their places."""
    return float(products[np.arange(len(order)), order.numpy()].sum())


def _best_of_groups(products: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """The best order of units that change places only with all that share something with them."""
    groups = len(shared)
    size = len(products) // groups
    total, inside = shared.copy(), np.zeros((groups, groups, size), dtype=np.int64)
    for one in range(groups):
        for two in range(groups):
            block = products[one * size : (one + 1) * size, two * size : (two + 1) * size]
            rows, columns = linear_sum_assignment(block, maximize=True)
            total[one, two] += block[rows, columns].sum()
            inside[one, two] = two * size + columns
    _, chosen = linear_sum_assignment(total, maximize=True)
    found: np.ndarray = inside[np.arange(groups), chosen].ravel()
    return found
