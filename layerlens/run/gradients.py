"""Gradients of a number with respect to what passes at chosen sites."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.model.text import Tokens
from layerlens.run.answer_place import answer_place
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

GRADIENT_PASSES = 3
"""A pass, and a backward pass, which counts as two."""

Measure = Callable[[Tensor], Tensor]
"""From states after the last block where the text is answered ``[1, d_model]`` to ``[1]``."""


Number = Callable[[Mapping[Site, Tensor]], Tensor]
"""From the values of some sites, ``[1, ...]`` each, to a number ``[]`` or ``[1]``."""


def gradients(
    model: LensModel,
    tokens: Tokens,
    sites: Iterable[Site],
    measure: Measure,
    changes: Sequence[Change] = (),
    *,
    held: Sequence[Change] = (),
    rows: Sequence[int] | None = None,
) -> tuple[float, dict[Site, Tensor]]:
    """Differentiate a number of one run with respect to many sites: one pass each way.

    The derivative is that with respect to what passes at a site, whatever the model does with it
    afterwards.

    Parameters
    ----------
    tokens
        One text without padding.
    sites
        All heads of each.
    measure
        Must have a derivative.
    changes
        Edits of the run, made before the derivative is taken: one that sets a site lets none pass
        from before it.
    held
        Edits that come last: one that sets a site lets no derivative through it, and that of
        the site itself is zero.
    rows
        Positions (queries, of ``pattern``) at which it is taken; None for all.

    Returns
    -------
    value
        What was measured.
    gradients
        ``[position, width]`` or ``[position, head, width]`` (``pattern``: ``[query, head,
        key]``) for each site, in the model's dtype; zeros where the site cannot reach the
        answer.

    Raises
    ------
    InputError
        If the measure has no derivative.
    """
    last, at = Site("resid_post", model.n_layers - 1), answer_place(model, tokens)
    return derivatives(
        model,
        tokens,
        sites,
        [last],
        lambda values: measure(values[last][:, at]),
        changes,
        held=held,
        rows=rows,
    )


def derivatives(
    model: LensModel,
    tokens: Tokens,
    sites: Iterable[Site],
    read: Sequence[Site],
    number: Number,
    changes: Sequence[Change] = (),
    *,
    held: Sequence[Change] = (),
    rows: Sequence[int] | None = None,
) -> tuple[float, dict[Site, Tensor]]:
    """As :func:`gradients`, of a number that is made of the values of any sites.

    Parameters
    ----------
    read
        Those that the number is made of, whole; handed to it when the last has passed.
    """
    with model.running(gradients=True):
        values, nodes = recorded_pass(model, tokens, sites, read, changes, held=held, rows=rows)
        value = number(values)
        if not value.requires_grad:
            raise InputError(
                "This metric has no derivative (it counts, compares or leaves torch), so its "
                "gradient is unknown: use logit_diff, logit, probability or logprob."
            )
        found = torch.autograd.grad(
            value.sum(), list(nodes.values()), allow_unused=True, materialize_grads=True
        )
    return float(value.detach()), {s: slope[0] for s, slope in zip(nodes, found, strict=True)}


def recorded_pass(
    model: LensModel,
    tokens: Tokens,
    sites: Iterable[Site],
    read: Sequence[Site],
    changes: Sequence[Change] = (),
    *,
    held: Sequence[Change] = (),
    rows: Sequence[int] | None = None,
) -> tuple[dict[Site, Tensor], dict[Site, Tensor]]:
    """One pass that can be differentiated, as in :func:`derivatives`, while gradients are recorded.

    Returns
    -------
    values
        Of the sites that are read.
    nodes
        What passed at each of ``sites``, ``[1, position, width]`` or as in :func:`gradients`: to
        be differentiated by, after the changes and before what is ``held``.
    """
    at = None if rows is None else tuple(rows)
    values: dict[Site, Tensor] = {}
    nodes: dict[Site, Tensor] = {}
    # What was made in inference mode cannot be kept for a backward pass; a copy can.
    fed = tokens.plain
    before, after = ([_copied(change) for change in given] for given in (changes, held))
    marked = [
        Change(site, "node", positions=at, receive=partial(nodes.__setitem__, site))
        for site in dict.fromkeys(sites)
    ]
    forward(
        model,
        fed,
        read,
        values.__setitem__,
        logits=None,
        changes=(*before, *marked, *after),
        gradients=True,
    )
    return values, nodes


def _copied(change: Change) -> Change:
    if not isinstance(change.value, Tensor):
        return change
    return replace(change, value=change.value.detach().clone())
