"""Relevance of one text from one pass and a way back for each answer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.relevance.explained import Explained
from layerlens.analyses.relevance.rules import FLOWS, biases, layer_of
from layerlens.model.sites import Site
from layerlens.run.flow import Offsets, holding
from layerlens.run.gradients import recorded_pass

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


class Found(NamedTuple):
    """What one answer leans on.

    Parameters
    ----------
    value
        The answer's number in the pass with the rule.
    at
        Site to relevance, ``[position]`` float64.
    neurons
        Layer to the relevance of its neurons, summed over positions, ``[neuron]`` float64.
    along
        Site to the derivative along all that passes there.
    constant
        ``[n_layers + 1]`` float64: what has no token, because biases from this block on add it;
        the last is that of the final norm and the head.
    behind_neurons
        Layer to what the bias of the projection behind its neurons adds.
    """

    value: float
    at: dict[Site, np.ndarray]
    neurons: dict[int, np.ndarray]
    along: dict[Site, float]
    constant: np.ndarray
    behind_neurons: dict[int, float]


def by_gradient(
    model: LensModel,
    text: Tokens,
    place: int,
    sites: Sequence[Site],
    explained: Sequence[Explained],
    rule: str,
    neurons: Sequence[Site] = (),
) -> list[Found]:
    """Values at sites times derivatives there, by a rule's ways.

    Parameters
    ----------
    place
        Position that is answered.
    sites
        Where the relevance of tokens is asked for.
    explained
        One way back each.
    neurons
        Where the relevance of neurons is asked for.
    """
    last = Site("resid_post", model.n_layers - 1)
    flow = FLOWS.get(rule)
    with ExitStack() as stack:
        stack.enter_context(model.running(gradients=True))
        offsets, plain, shares = Offsets(), {}, []
        if flow is not None:
            offsets = stack.enter_context(holding(model, flow))
            plain = stack.enter_context(biases(model))
            shares = flow.changes(model)
        asked = [*sites, *neurons]
        read = list(dict.fromkeys([*asked, last]))
        values, leaves = recorded_pass(model, text, asked, read, shares)
        found = []
        for index, number in enumerate(explained):
            value = number(values[last][:, place])[0]
            adding = {**plain, **offsets.of}
            wanted = [*leaves.values(), *adding.values()]
            slopes = torch.autograd.grad(
                value,
                wanted,
                retain_graph=index + 1 < len(explained),  # the last way back frees it as it goes
                allow_unused=True,
                materialize_grads=True,
            )
            by_site = dict(zip(leaves, slopes, strict=False))
            by_bias = dict(zip(adding, slopes[len(leaves) :], strict=True))
            parts = added(adding, by_bias)
            found.append(
                Found(
                    float(value.detach()),
                    {site: _relevance(values[site][0], by_site[site], rule) for site in sites},
                    {s.block: _products(values[s][0], by_site[s]).sum(0).numpy() for s in neurons},
                    {s: float(_products(values[s][0], by_site[s]).sum()) for s in asked},
                    _constant(model, parts),
                    {site.block: _behind(model, site.block, parts) for site in neurons},
                )
            )
    return found


def _relevance(value: Tensor, slope: Tensor, rule: str) -> np.ndarray:
    """``[position]`` float64."""
    if rule == "gradient":
        found = slope.double().norm(dim=-1).cpu()
    else:
        found = _products(value, slope).sum(-1)
    relevance: np.ndarray = found.numpy()
    return relevance


def _products(value: Tensor, slope: Tensor) -> Tensor:
    """Values times derivatives, ``[position, width]`` float64 on the CPU."""
    return (value.detach().double() * slope.double()).cpu()


def added(adding: dict[str, Tensor], slopes: dict[str, Tensor]) -> dict[str, float]:
    """What each bias and offset adds to the number, by path."""
    # A bias that suppresses a token (-inf) adds nothing where nothing asks for it.
    return {
        path: float(torch.where(s != 0, adding[path].detach().double() * s.double(), 0.0).sum())
        for path, s in slopes.items()
    }


def _constant(model: LensModel, added: dict[str, float]) -> np.ndarray:
    """What is added from each block on, whatever the tokens are."""
    found = np.zeros(model.n_layers + 1)
    for path, part in added.items():
        layer = layer_of(model, path)
        if layer >= 0:
            found[layer] += part
    return found[::-1].cumsum()[::-1].copy()


def _behind(model: LensModel, layer: int, added: dict[str, float]) -> float:
    """What the projection behind the neurons of a layer adds by itself."""
    down = model.anatomy.blocks[layer].taps["mlp_post"].module
    return sum(part for path, part in added.items() if f"{path}.".startswith(f"{down}."))
