"""A pass that ends as soon as it has shown what it was run for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from torch import Tensor

from layerlens.model.sites import Site
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def read_until(
    model: LensModel,
    tokens: Tokens,
    sites: Sequence[Site],
    pick: Callable[[Site, Tensor], Tensor],
    tick: Callable[[], None] = lambda: None,
) -> dict[Site, Tensor]:
    """Read sites in a pass that goes no further than the last of them.

    Parameters
    ----------
    sites
        Different ones.
    pick
        From a site and its value, which is the model's own tensor, to what is kept of it.
    tick
        Called at each site; may raise to stop.

    Raises
    ------
    SiteError
        If a site does not exist in this model, or has no value in the pass.
    """
    found: dict[Site, Tensor] = {}

    def see(site: Site, value: Tensor) -> None:
        tick()
        found[site] = pick(site, value)
        if len(found) == len(sites):
            raise _Enough

    with suppress(_Enough):
        forward(model, tokens, sites, see, logits=None)
    return found


class _Enough(Exception):  # noqa: N818 - no error: ends a pass that has shown what it was run for
    pass
