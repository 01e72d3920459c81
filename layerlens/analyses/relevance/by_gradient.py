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
    along
        The derivative along all states of the first site.
    constant
        ``[n_layers + 1]`` float64: what has no token, because biases from this block on add it;
        the last is that of the final norm and the head.
    """

    value: float
    at: dict[Site, np.ndarray]
    along: float
    constant: np.ndarray


def by_gradient(
    model: LensModel,
    text: Tokens,
    place: int,
    sites: Sequence[Site],
    explained: Sequence[Explained],
    rule: str,
) -> list[Found]:
    """Values at sites times derivatives there, by a rule's ways.

    Parameters
    ----------
    place
        Position that is answered.
    sites
        Where relevance is asked for.
    explained
        One way back each.
    """
    last = Site("resid_post", model.n_layers - 1)
    flow = FLOWS.get(rule)
    with ExitStack() as stack:
        stack.enter_context(model.running(gradients=True))
        offsets, plain, held = Offsets(), {}, []
        if flow is not None:
            offsets = stack.enter_context(holding(model, flow))
            plain = stack.enter_context(biases(model))
            held = flow.changes(model)
        read = list(dict.fromkeys([*sites, last]))
        values, leaves = recorded_pass(model, text, sites, read, held=held)
        found = []
        for number in explained:
            value = number(values[last][:, place])[0]
            adding = {**plain, **offsets.of}
            wanted = [*leaves.values(), *adding.values()]
            slopes = torch.autograd.grad(
                value, wanted, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            by_site = dict(zip(leaves, slopes, strict=False))
            by_bias = dict(zip(adding, slopes[len(leaves) :], strict=True))
            relevance = {
                site: _relevance(values[site][0], slope, rule) for site, slope in by_site.items()
            }
            along = float(_products(values[sites[0]][0], by_site[sites[0]]).sum())
            constant = _constant(model, adding, by_bias)
            found.append(Found(float(value.detach()), relevance, along, constant))
    return found


def _relevance(value: Tensor, slope: Tensor, rule: str) -> np.ndarray:
    """``[position]`` float64."""
    found: Tensor = slope.double().norm(dim=-1) if rule == "gradient" else _products(value, slope)
    relevance: np.ndarray = found.cpu().numpy()
    return relevance


def _products(value: Tensor, slope: Tensor) -> Tensor:
    """Values times derivatives, ``[position]`` float64."""
    return (value.detach().double() * slope.double()).sum(-1)


def _constant(model: LensModel, adding: dict[str, Tensor], slopes: dict[str, Tensor]) -> np.ndarray:
    """What is added from each block on, whatever the tokens are."""
    found = np.zeros(model.n_layers + 1)
    for path, slope in slopes.items():
        layer = layer_of(model, path)
        if layer >= 0:
            # A bias that suppresses a token (-inf) adds nothing where nothing asks for it.
            part = torch.where(slope != 0, adding[path].detach().double() * slope.double(), 0.0)
            found[layer] += float(part.sum())
    return found[::-1].cumsum()[::-1].copy()
