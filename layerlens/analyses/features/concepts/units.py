"""What concepts are factors of: tokens or clauses of texts, and the activations there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.features.activations import Places, special_ids
from layerlens.analyses.features.concepts.factors import Signs
from layerlens.analyses.lenses.fitting.documents import BATCH_TOKENS
from layerlens.corpus.rows import Row
from layerlens.corpus.shard import batches
from layerlens.errors import ActivationError
from layerlens.model.lensmodel import LensModel
from layerlens.model.sites import Site
from layerlens.run.until import read_until

UNITS = ("token", "clause")
ENDS = frozenset(",.;:!?\n")
"""A token with one of these ends a clause."""


@dataclass(frozen=True)
class Unit:
    """Some tokens of a row.

    Attributes
    ----------
    row
        Its number among the rows.
    positions
        Of its tokens that count; the last one stands for it where one token has to.
    """

    row: int
    positions: tuple[int, ...]


def units_of(places: Places, rows: Sequence[Row], numbers: Sequence[int], kind: str) -> list[Unit]:
    """The units of some rows, without the first tokens and special ones."""
    special = special_ids(places.model)
    found = []
    for number in numbers:
        ids = rows[number].ids
        counts = [i for i in range(places.skipped, len(ids)) if ids[i] not in special]
        spans = [[one] for one in counts]
        if kind == "clause":
            spans = _clauses(places.model, ids, counts)
        found += [Unit(number, tuple(span)) for span in spans]
    return found


def _clauses(model: LensModel, ids: Sequence[int], counts: Sequence[int]) -> list[list[int]]:
    words = model.vocabulary.split(ids)[0]
    found: list[list[int]] = [[]]
    for position in counts:
        found[-1].append(position)
        if ENDS & {*words[position]}:
            found.append([])
    return [span for span in found if span]


def read_units(
    places: Places,
    rows: Sequence[Row],
    units: Sequence[Unit],
    signs: Signs,
    tick: Callable[[], None],
    progress: Callable[[int, int], None],
) -> list[np.ndarray]:
    """The non-negative activations of units, each the mean over its tokens.

    Returns
    -------
    list of ndarray
        For each layer ``[unit, width or 2 width]`` float32.

    Raises
    ------
    InputError
        Activations are signed, and ``signs`` does not say what is done about it.
    """
    of_row: dict[int, list[int]] = {}
    for index, unit in enumerate(units):
        of_row.setdefault(unit.row, []).append(index)
    numbers = {rows[row].number: row for row in of_row}
    found: list[np.ndarray] = []
    read = 0
    for tokens, some in batches(places.model, [rows[row] for row in of_row], BATCH_TOKENS):
        here = [(at, index) for at, number in enumerate(some) for index in of_row[numbers[number]]]
        flat = [(at, position, i) for i, (at, index) in enumerate(here)
                for position in units[index].positions]  # fmt: skip
        row, position, unit = torch.tensor(flat).T

        def pick(
            site: Site, value: Tensor, row: Tensor = row, position: Tensor = position
        ) -> Tensor:
            return value[row.to(value.device), position.to(value.device)].float().cpu()

        values = read_until(places.model, tokens, places.sites, pick, tick)
        wanted = [index for _, index in here]
        for layer, site in enumerate(places.sites):
            means = _means(signs.open(_finite(values[site], site).numpy()), unit, len(here))
            if len(found) == layer:
                found.append(np.zeros((len(units), means.shape[1]), np.float32))
            found[layer][wanted] = means
        read += len(some)
        progress(read, len(of_row))
    return found


def _finite(values: Tensor, site: Site) -> Tensor:
    if not bool(torch.isfinite(values).all()):
        raise ActivationError(
            f"The model's activations hold NaN or infinity at {site}: check its weights and dtype "
            "(float16 overflows where bfloat16 or float32 do not)."
        )
    return values


def _means(opened: np.ndarray, unit: Tensor, count: int) -> np.ndarray:
    """Mean of the rows of each unit."""
    sums = torch.zeros(count, opened.shape[1]).index_add_(0, unit, torch.from_numpy(opened))
    means: np.ndarray = (sums / torch.bincount(unit, minlength=count)[:, None]).numpy()
    return means


def drawn(units: Sequence[Unit], most: int, generator: np.random.Generator) -> list[Unit]:
    """As many of some units at random, in their order."""
    chosen = np.sort(generator.permutation(len(units))[:most])
    return [units[one] for one in chosen]


Sides = Mapping[str, list[Unit]]
"""The units to learn from (``train``) and those that were set apart (``test``)."""
