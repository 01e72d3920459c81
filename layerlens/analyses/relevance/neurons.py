"""Relevance of single neurons: the strongest of each layer, and what the answer loses with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from layerlens.model.sites import Site
from layerlens.run.base import record_base
from layerlens.run.cell import Cell
from layerlens.run.changes import Change
from layerlens.run.many_edits import run_cells

if TYPE_CHECKING:
    from torch import Tensor

    from layerlens.analyses.relevance.by_gradient import Found
    from layerlens.analyses.relevance.explained import Explained
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


class Neuron(NamedTuple):
    """A neuron, by layer and number."""

    layer: int
    number: int


def strongest(relevance: np.ndarray, count: int) -> np.ndarray:
    """Numbers of the ``count`` neurons of one layer with the most relevance, signs left out.

    Parameters
    ----------
    relevance
        ``[neuron]``.

    Examples
    --------
    >>> import numpy as np
    >>> strongest(np.array([0.1, -3.0, 2.0]), 2).tolist()
    [1, 2]
    """
    return np.argsort(-np.abs(relevance), kind="stable")[:count]


def kept_neurons(own: Found, random: Sequence[Found], count: int) -> dict[str, np.ndarray]:
    """The strongest of each layer, and what they carry of random answers, ``[layer, rank]``.

    A layer with fewer has -1 and NaN behind its last.
    """
    shape = len(own.neurons), count
    names = ("neuron_relevance", *(["neuron_chance"] if random else []))
    found = {"neuron": np.full(shape, -1, np.int32), **{n: np.full(shape, np.nan) for n in names}}
    for row, (layer, relevance) in enumerate(own.neurons.items()):
        best = strongest(relevance, count)
        found["neuron"][row, : len(best)] = best
        found["neuron_relevance"][row, : len(best)] = relevance[best]
        if random:
            chance = np.mean([other.neurons[layer][best] for other in random], axis=0)
            found["neuron_chance"][row, : len(best)] = chance
    return found


def neurons_off(own: Found) -> float:
    """How far neurons, with the bias behind them, are from what their MLP writes, relative."""
    off = []
    for layer, relevance in own.neurons.items():
        gap = relevance.sum() + own.behind_neurons[layer] - own.along[Site("mlp_out", layer)]
        off.append(abs(float(gap)) / max(float(np.abs(relevance).sum()), 1e-9))
    return max(off)


def chosen_to_zero(
    relevance: Mapping[int, np.ndarray], count: int, rng: np.random.Generator
) -> list[Neuron]:
    """The ``count`` neurons with the most relevance, and behind them as many random other ones.

    Parameters
    ----------
    relevance
        Layer to ``[neuron]``.
    """
    places = [Neuron(layer, n) for layer, row in relevance.items() for n in range(len(row))]
    order = strongest(np.concatenate(list(relevance.values())), len(places))
    drawn = rng.choice(order[count:], size=count, replace=False)
    return [places[int(place)] for place in (*order[:count], *drawn)]


def without_each(
    model: LensModel,
    text: Tokens,
    place: int,
    neurons: Sequence[Neuron],
    explained: Explained,
    tick: Callable[[], None],
) -> np.ndarray:
    """What is explained with one neuron after the other set to 0 at every token, ``[neuron]``.

    Parameters
    ----------
    text
        One text without padding.
    place
        Position that is answered.
    """
    base = record_base(model, text, asked=place)
    where = tuple(range(base.length))
    found = np.empty(len(neurons))

    def keep(cells: Sequence[int], finals: Tensor) -> None:
        found[list(cells)] = explained(finals).double().cpu().numpy()

    cells = [
        Cell((Change(Site("mlp_post", layer), "set", 0.0, where, neurons=(number,)),))
        for layer, number in neurons
    ]
    run_cells(model, base, cells, keep, tick=tick)
    return found
