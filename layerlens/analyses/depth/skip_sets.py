"""Sets of sublayers that are left out together: named, evenly spread, drawn; and without them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from layerlens.analyses.depth.finercut_trials import Unit, units_of
from layerlens.errors import InputError
from layerlens.model.integers import wholes
from layerlens.run.skip import mute

if TYPE_CHECKING:
    from layerlens.analyses.sweeps.clean_pass import Pass
    from layerlens.model.lensmodel import LensModel

MOST, STEPS = 0.6, 6
"""Share of the sublayers, and numbers of them, that are left out where none are given."""


def unit_name(unit: Unit) -> str:
    """What a sublayer is called: ``20 mlp``."""
    return f"{unit.layer} {unit.part}"


def unit_sets(
    model: LensModel, skip: Sequence[str] | None, keep_ends: bool
) -> tuple[list[Unit], list[Unit]]:
    """The sublayers of ``skip``, and all those that random sets are drawn from."""
    every = units_of(model)
    inner = [unit for unit in every if 0 < unit.layer < model.n_layers - 1]
    if skip is None:
        if keep_ends and not inner:
            raise InputError(
                f"{model.name} has no sublayer between its first and its last block: use "
                "keep_ends=False."
            )
        return [], inner if keep_ends else every
    known = {unit_name(unit): unit for unit in every}
    names = [skip] if isinstance(skip, str) else list(skip)
    wrong = [name for name in names if name not in known]
    if wrong or not names or len(set(names)) < len(names):
        raise InputError(
            f"skip is {skip!r}; expected sublayers, each once, such as {next(iter(known))!r}."
        )
    order = [known[name] for name in names]
    return order, inner if set(order) <= set(inner) else every


def set_sizes(
    counts: int | Sequence[int] | None, order: list[Unit], pool: list[Unit]
) -> tuple[int, ...]:
    """How many sublayers to leave out."""
    most = len(order or pool)
    if counts is None:
        if order:
            return tuple(range(most + 1))
        steps = np.linspace(0, MOST * most, STEPS).round().astype(int)
        return tuple(np.unique(steps).tolist())
    found = wholes(counts, "counts", least=0)
    if max(found) > most:
        raise InputError(f"counts is {counts}; expected at most {most}, as many as may be skipped.")
    return found


def spread(pool: list[Unit], count: int) -> list[Unit]:
    """So many, evenly spread; for half of them every second one."""
    return [pool[place] for place in spread_places(len(pool), count)]


def spread_places(size: int, count: int) -> list[int]:
    """The places of so many of them."""
    return [int((place + 0.5) * size / count) for place in range(count)]


def drawn(pool: list[Unit], count: int, draws: int, seed: int) -> list[list[Unit]]:
    """Random sets of this size; none where there is but one."""
    if not 0 < count < len(pool):
        return []
    random = np.random.default_rng((seed, count))
    chosen = (random.choice(len(pool), count, replace=False) for _ in range(draws))
    return [[pool[place] for place in sorted(places)] for places in chosen]


def first_of(order: list[Unit], pool: list[Unit], count: int) -> list[Unit]:
    """The first so many of an order; without one so many of the pool, evenly spread."""
    return order[:count] if order else spread(pool, count)


def mismatch(clean: Tensor, other: Tensor) -> Tensor:
    """1 where the likeliest token is another one, else 0: ``[n]`` float64."""
    return (clean.argmax(-1) != other.argmax(-1)).double()


def without_units(model: LensModel, one: Pass, units: Sequence[Unit]) -> tuple[Tensor, int]:
    """The last state without some sublayers, from the first of their layers on.

    Beside it, how many blocks were run.
    """
    first = min((unit.layer for unit in units), default=model.n_layers)
    texts, length = one.batch.tokens.ids.shape
    later = range(first, model.n_layers)
    with ExitStack() as stack:
        for unit in units:
            mute(model, unit.layer, unit.part, tuple(range(length)), texts, stack)
        return one.run(one.states[first], later), len(later)
