"""The names of the places inside a model where activations can be read.

The canonical names are those of TransformerLens (``blocks.7.hook_resid_post``); short
forms (``resid_post.7``, ``z.7.3``) and nnterp's names (``layers_output``) are accepted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches

from layerlens.errors import SiteError
from layerlens.model.integers import is_whole

#: Site kind -> canonical name. ``{l}`` stands for the number of the block.
NAMES = {
    "embed": "hook_embed",
    "resid_pre": "blocks.{l}.hook_resid_pre",
    "resid_mid": "blocks.{l}.hook_resid_mid",
    "resid_mid_cross": "blocks.{l}.hook_resid_mid_cross",
    "resid_post": "blocks.{l}.hook_resid_post",
    "attn_out": "blocks.{l}.hook_attn_out",
    "cross_attn_out": "blocks.{l}.hook_cross_attn_out",
    "mlp_out": "blocks.{l}.hook_mlp_out",
    "q": "blocks.{l}.attn.hook_q",
    "k": "blocks.{l}.attn.hook_k",
    "v": "blocks.{l}.attn.hook_v",
    "rot_q": "blocks.{l}.attn.hook_rot_q",
    "rot_k": "blocks.{l}.attn.hook_rot_k",
    "attn_scores": "blocks.{l}.attn.hook_attn_scores",
    "pattern": "blocks.{l}.attn.hook_pattern",
    "z": "blocks.{l}.attn.hook_z",
    "result": "blocks.{l}.attn.hook_result",
    "cross_q": "blocks.{l}.cross_attn.hook_q",
    "cross_k": "blocks.{l}.cross_attn.hook_k",
    "cross_v": "blocks.{l}.cross_attn.hook_v",
    "cross_attn_scores": "blocks.{l}.cross_attn.hook_attn_scores",
    "cross_pattern": "blocks.{l}.cross_attn.hook_pattern",
    "cross_z": "blocks.{l}.cross_attn.hook_z",
    "mlp_pre": "blocks.{l}.mlp.hook_pre",
    "mlp_post": "blocks.{l}.mlp.hook_post",
    "normalized": "ln_final.hook_normalized",
    "head_input": "head.hook_in",
}

#: Sites that exist once in a model, not once in a block.
GLOBAL = ("embed", "normalized", "head_input")

#: Sites inside the attention of a decoder to what its encoder gives: read there, not changed.
CROSS = ("cross_q", "cross_k", "cross_v", "cross_attn_scores", "cross_pattern")

#: Sites with an axis of heads.
HEADS = (
    "q", "k", "v", "rot_q", "rot_k", "attn_scores", "pattern", "z", "result", *CROSS, "cross_z",
)  # fmt: skip

#: Those whose heads are key-value heads.
KEY_VALUE = ("k", "v", "rot_k", "cross_k", "cross_v")

_ALIASES = {
    "layers_output": "resid_post",
    "layers_input": "resid_pre",
    "attentions_output": "attn_out",
    "mlps_output": "mlp_out",
    "hook_in": "resid_pre",
    "hook_out": "resid_post",
    "ln_final": "normalized",
    "scores": "attn_scores",
    "attn": "pattern",
    "pre": "mlp_pre",
    "post": "mlp_post",
    "mid": "resid_mid",
}

_CANONICAL = re.compile(r"^blocks\.(\d+)\.(?:(attn|mlp|cross_attn)\.)?hook_(\w+)$")


@dataclass(frozen=True, order=True)
class Site:
    """A named tensor inside a run.

    Parameters
    ----------
    kind
        One of ``layerlens.model.sites.NAMES``.
    layer
        Number of the block, from 0; None for the sites that exist once.
    head
        Only this head (key-value head for ``k``, ``v`` and ``rot_k``), from 0; None for all.

    Examples
    --------
    >>> str(Site("resid_post", 7))
    'blocks.7.hook_resid_post'
    """

    kind: str
    layer: int | None = None
    head: int | None = None

    def __str__(self) -> str:
        name = NAMES[self.kind].format(l=self.layer)
        return name if self.head is None else f"{name}[{self.head}]"

    @property
    def block(self) -> int:
        """Number of the block; raises ``SiteError`` where no layer was given."""
        if self.layer is None:
            raise SiteError(f"{self.kind} needs a layer here: write it like '{self.kind}.0'.")
        return self.layer

    @property
    def whole(self) -> Site:
        """The same site with all of its heads."""
        return self if self.head is None else replace(self, head=None)


#: Any way to write one site.
SiteName = str | Site | tuple[str | int, ...]

#: What TransformerLens calls a ``names_filter``.
NamesFilter = str | list[str] | Callable[[str], bool] | None


def parse_site(name: SiteName) -> Site:
    """Read one site from any of its names.

    Returns
    -------
    Site
        ``layer`` is None where the name gave none (``"resid_post"`` means every block).

    Raises
    ------
    SiteError
        If no site has this name.

    Examples
    --------
    >>> parse_site("z.7.3")
    Site(kind='z', layer=7, head=3)
    >>> parse_site(("resid_pre", 5)) == parse_site("blocks.5.hook_resid_pre")
    True
    """
    if isinstance(name, Site):
        return name
    if not isinstance(name, str | tuple):
        raise SiteError(f"{name!r} is no site: write it like 'resid_post.7' or ('resid_post', 7).")
    if isinstance(name, tuple):
        if not all(isinstance(part, str) or is_whole(part) for part in name):
            raise SiteError(f"{name} is no site: write it like ('resid_post', 7).")
        name = ".".join(str(part) for part in name)
    for kind in GLOBAL:
        if name == NAMES[kind]:
            return Site(kind)
    if match := _CANONICAL.match(name):
        layer, part, short = match.groups()
        prefix = {"mlp": "mlp_", "cross_attn": "cross_"}.get(part, "")
        return Site(_kind(prefix + short, name), int(layer))
    kind_name, *numbers = name.split(".")
    kind = _kind(kind_name, name)
    if not all(number.lstrip("-").isdigit() for number in numbers) or len(numbers) > 2:
        raise SiteError(f"'{name}' is no site: write it like 'resid_post.7' or 'z.7.3'.")
    layer, head = ([int(number) for number in numbers] + [None, None])[:2]
    if head is not None and kind not in HEADS:
        raise SiteError(f"'{name}': {kind} has no heads; only {', '.join(HEADS)} have.")
    return Site(kind, layer, head)


def _kind(short: str, name: str) -> str:
    kind = _ALIASES.get(short, short.removeprefix("hook_"))
    if kind in NAMES:
        return kind
    near = get_close_matches(kind, [*NAMES, *_ALIASES], n=1)
    hint = f" Did you mean '{near[0]}'?" if near else f" There are: {', '.join(NAMES)}."
    raise SiteError(f"'{name}' is no site.{hint}")


def expand(sites: SiteName | Iterable[SiteName], n_layers: int) -> list[Site]:
    """Every site that the names stand for, in order, each once.

    Raises
    ------
    SiteError
        If a name is unknown or its layer lies outside the model.
    """
    if sites != () and isinstance(sites, str | Site | tuple):
        sites = [sites]
    if not isinstance(sites, Iterable):
        raise SiteError(f"{sites!r} names no sites: give a name like 'resid_post', or a list.")
    found: dict[Site, None] = {}
    for site in map(parse_site, sites):
        if site.kind in GLOBAL:
            found[Site(site.kind)] = None
        elif site.layer is None:
            found.update({replace(site, layer=layer): None for layer in range(n_layers)})
        else:
            layer = site.layer + n_layers if site.layer < 0 else site.layer
            if not 0 <= layer < n_layers:
                raise SiteError(
                    f"{site.kind} of layer {site.layer} does not exist: "
                    f"the model has layers 0 to {n_layers - 1}."
                )
            found[replace(site, layer=layer)] = None
    return list(found)


def select(available: Iterable[Site], names_filter: NamesFilter) -> list[Site]:
    """The available sites that a TransformerLens ``names_filter`` picks.

    Raises
    ------
    SiteError
        If a name in the filter is not available.
    """
    available = list(available)
    if names_filter is None:
        return available
    if callable(names_filter):
        return [site for site in available if names_filter(str(site))]
    n_layers = 1 + max((site.layer for site in available if site.layer is not None), default=-1)
    wanted = expand(names_filter, n_layers)
    missing = [site for site in wanted if site.whole not in available]
    if missing:
        raise SiteError(f"{missing[0]} cannot be read in this model; see model.anatomy.")
    return wanted
