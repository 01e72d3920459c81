"""One text run many times at once, in each row with another part of the model times a factor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from layerlens.errors import InputError
from layerlens.model.sites import Site, parse_site
from layerlens.run.changes import Change
from layerlens.run.forward import forward
from layerlens.run.where import editable_sites, require_heads

if TYPE_CHECKING:
    from typing import Literal

    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

MOST_TOKENS = 512
"""Tokens of one pass; a single text may have more."""


def parts_of(model: LensModel, names: Sequence[str | Site]) -> list[Site]:
    """The sites that are turned down, each of one layer.

    Raises
    ------
    InputError
        There is none, or a name gives no layer.
    SiteError
        The model has no such site, or it cannot be changed.
    """
    listed = [names] if isinstance(names, str | Site) else list(names)
    found = [name if isinstance(name, Site) else parse_site(name) for name in listed]
    if not found:
        raise InputError("parts is empty: name at least one, such as 'mlp_out.29'.")
    for name, site in zip(listed, found, strict=True):
        if site.layer is None:
            raise InputError(f"{name} names no layer: give one, such as 'mlp_out.29' or 'z.27.3'.")
        editable_sites(model, site.kind, [site.layer])
        if site.head is not None:
            require_heads(model, site, [site.head])
    return found


def turned_down(
    model: LensModel,
    tokens: Tokens,
    sites: Sequence[Site],
    factors: Sequence[float],
    logits: Literal["all", "last"],
    tick: Callable[[], None],
) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """Run one text with each site times each factor, at every position.

    Yields
    ------
    cell
        Numbers of the factor and of the site.
    logits
        ``[position or 1, vocabulary]`` of the model with this change, valid until the next one.
    """
    cells = [(dose, part) for dose in range(len(factors)) for part in range(len(sites))]
    size = max(1, MOST_TOKENS // tokens.ids.shape[1])
    for start in range(0, len(cells), size):
        tick()
        some = cells[start : start + size]
        changes = [
            Change(sites[part], "scale", factors[dose], row=row)
            for row, (dose, part) in enumerate(some)
        ]
        rows = tokens.repeated(len(some))
        given = forward(model, rows, [], lambda site, value: None, logits=logits, changes=changes)
        assert given is not None  # the analysis needs a head
        yield from zip(some, given, strict=True)


def largest_change_by_one(model: LensModel, tokens: Tokens, sites: Sequence[Site]) -> float:
    """How far logits move when every site is multiplied by 1: they should not at all."""
    plain = forward(model, tokens, [], lambda site, value: None)
    by_one = [Change(site, "scale", 1.0) for site in sites]
    changed = forward(model, tokens, [], lambda site, value: None, changes=by_one)
    assert plain is not None  # the analysis needs a head
    assert changed is not None
    # A suppressed token's logit is -inf in both.
    return float((plain - changed).abs().where(plain != changed, 0.0).max())
