"""Whether a place inside a model exists, can be changed, and how large it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from torch import Tensor

from layerlens.errors import SiteError
from layerlens.model.sites import HEADS, KEY_VALUE, Site, expand
from layerlens.run.forward import forward
from layerlens.run.hooks import is_inside, require_attention

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

_SHAPES: WeakKeyDictionary[LensModel, dict[Site, tuple[int, ...]]] = WeakKeyDictionary()


def editable_sites(model: LensModel, kind: str, layers: Sequence[int] | None) -> list[Site]:
    """The sites of a kind in these layers, all heads.

    Raises
    ------
    SiteError
        If one does not exist in this model or cannot be changed, with the reason.
    """
    if kind == "result":
        raise SiteError(
            "result cannot be edited: edit z (what each head gives to the output projection) "
            "or attn_out (what all of them add to the stream)."
        )
    sites = expand([Site(kind, layer) for layer in layers or (None,)], model.n_layers)
    for site in sites:
        if is_inside(model, site):
            require_attention(model, site)
        else:
            model.anatomy.tap(site)
    return sites


def require_heads(model: LensModel, site: Site, heads: Iterable[int]) -> None:
    """Raise a ``SiteError`` for a head that a site does not have."""
    if site.kind not in HEADS:
        return
    block = model.anatomy.blocks[site.layer or 0]
    kind, count = ("key-value heads", block.n_kv_heads)
    if site.kind not in KEY_VALUE:
        kind, count = "query heads", block.n_heads
    for head in heads:
        if not 0 <= head < count:
            raise SiteError(
                f"Head {head} of {site.kind} in layer {site.layer} does not exist: there are "
                f"{count} {kind} (0 to {count - 1})."
            )


def neurons_of(model: LensModel, layer: int) -> int:
    """How many neurons a layer's MLP has: what its last projection is given. Runs nothing.

    Examples
    --------
    >>> import layerlens as ll
    >>> neurons_of(ll.load("toy:induction"), 0)
    16
    """
    module = model.hf.get_submodule(model.anatomy.tap(Site("mlp_post", layer)).module)
    known = getattr(module, "in_features", None)
    return int(known or module.get_parameter("weight").numel() // model.d_model)


def row_shapes(model: LensModel, sites: Iterable[Site]) -> dict[Site, tuple[int, ...]]:
    """Shape of one position of each site, ``(width,)`` or ``(head, width)``.

    What is not known yet is seen in one pass over a small input.
    """
    known = _SHAPES.setdefault(model, {})
    wanted = list(sites)
    missing = [site for site in dict.fromkeys(wanted) if site not in known]

    def see(site: Site, value: Tensor) -> None:
        known[site] = tuple(value.shape[2:])

    if missing:
        forward(model, model.probe(length=2), missing, see, logits=None)
    return {site: known[site] for site in wanted}
