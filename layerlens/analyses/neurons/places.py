"""Which neurons are meant, and how large they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.model.integers import is_whole, whole
from layerlens.model.sites import Site
from layerlens.run.forward import forward
from layerlens.run.where import row_shapes

if TYPE_CHECKING:
    from layerlens.analyses.contract.contract import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

MULTIPLES = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0)
"""Of the usual size of a neuron: what it is held at unless values are given."""


def neuron_places(model: LensModel, neuron: Any) -> list[tuple[int, int]]:
    """Layer and number of each neuron, in the order in which they are given.

    Raises
    ------
    InputError
        It is no pair of whole numbers, nor a list of these; one does not exist, or is named twice.
    SiteError
        A layer has no neurons that could be watched.
    """
    try:
        given = [list(each) for each in ([neuron] if is_whole(neuron[0]) else neuron)]
    except (TypeError, IndexError, KeyError):
        given = []
    if not given or any(len(each) != 2 for each in given):
        raise InputError(
            f"neuron is {neuron!r}; expected (layer, number), such as (7, 123), or a list of these."
        )
    places = []
    for layer, number in given:
        [block] = model.layers(whole(layer, "layer of neuron"))
        site = Site("mlp_post", block)
        model.anatomy.tap(site)  # raises, and says why
        width = row_shapes(model, [site])[site][-1]
        index = whole(number, "number of neuron")
        if not 0 <= index < width:
            raise InputError(f"Neuron {index} does not exist: layer {block} has 0 to {width - 1}.")
        places.append((block, index))
    if len(set(places)) < len(places):
        raise InputError(f"neuron is {neuron!r}; name each once, for each has a row of its own.")
    return places


def usual_values(
    job: Job, model: LensModel, tokens: Tokens, places: list[tuple[int, int]]
) -> list[float]:
    """Multiples of the largest magnitude that neurons have in texts, their first tokens aside."""
    largest = 0.0
    counted = tokens.mask.clone()
    if int(counted.sum(1).min()) > 1:
        counted[torch.arange(len(counted)), counted.int().argmax(1)] = False

    def see(site: Site, value: Tensor) -> None:
        nonlocal largest
        job.tick()
        columns = [index for layer, index in places if layer == site.block]
        kept = value[..., columns][counted.to(value.device)]
        largest = max(largest, float(kept.abs().max()))

    sites = [Site("mlp_post", layer) for layer in sorted({layer for layer, _ in places})]
    forward(model, tokens, sites, see, logits=None)
    unit = float(f"{largest:.2g}") or 1.0
    return [float(f"{unit * times:.4g}") for times in MULTIPLES]
