"""Gradients of a number with respect to what passes at chosen sites."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.model.text import Tokens
from layerlens.run.answer_place import answer_place
from layerlens.run.changes import SQUARE, Change
from layerlens.run.forward import forward
from layerlens.run.where import row_shapes

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

    A tensor of zeros is added at each site; the derivative with respect to it is the derivative
    with respect to what passes there, whatever the model does with it afterwards.

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
        values, leaves = recorded_pass(model, tokens, sites, read, changes, held=held, rows=rows)
        value = number(values)
        if not value.requires_grad:
            raise InputError(
                "This metric has no derivative (it counts, compares or leaves torch), so its "
                "gradient is unknown: use logit_diff, logit, probability or logprob."
            )
        found = torch.autograd.grad(
            value.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
        )
    return float(value.detach()), dict(zip(leaves, found, strict=True))


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
    leaves
        For each of ``sites`` the zeros that were added there.
    """
    sites, length = list(sites), tokens.ids.shape[1]
    at = None if rows is None else tuple(rows)
    shapes = _shapes(model, sites, length if rows is None else len(rows), length)
    values: dict[Site, Tensor] = {}
    # What was made in inference mode cannot be kept for a backward pass; a copy can.
    fed = tokens.plain
    before, after = ([_copied(change) for change in given] for given in (changes, held))
    leaves = {
        site: torch.zeros(shapes[site], dtype=model.dtype, device=model.device, requires_grad=True)
        for site in sites
    }
    added = [Change(site, "add", leaf, at) for site, leaf in leaves.items()]
    forward(
        model,
        fed,
        read,
        values.__setitem__,
        logits=None,
        changes=(*before, *added, *after),
        gradients=True,
    )
    return values, leaves


def _shapes(
    model: LensModel, sites: Sequence[Site], count: int, length: int
) -> dict[Site, tuple[int, ...]]:
    """Shape of the values of each site at some positions of one text."""
    square = [site for site in sites if site.kind in SQUARE]
    rows = row_shapes(model, [site for site in sites if site.kind not in SQUARE])
    blocks = model.anatomy.blocks
    return {
        **{site: (count, *row) for site, row in rows.items()},
        **{site: (count, blocks[site.block].n_heads, length) for site in square},
    }


def _copied(change: Change) -> Change:
    if not isinstance(change.value, Tensor):
        return change
    return replace(change, value=change.value.detach().clone())
