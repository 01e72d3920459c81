"""What a position may not look at: groups of positions before it, and how they are blocked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from layerlens.analyses.texts.subjects import subject_positions
from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

BLIND = (
    "Some layers with local attention see nothing but {name!r} from the query: blocking that would "
    "leave nothing to look at, so these cells are NaN."
)

Groups = Mapping[str, tuple[int, ...]]
"""Name of a source to the positions that are blocked together."""


@dataclass(frozen=True)
class Plan:
    """The query of one text, and what is hidden from it."""

    query: int
    groups: Groups


def attending_layers(model: LensModel) -> list[int]:
    """Layers with attention whose scores can be blocked; raises where there are none."""
    blocks = enumerate(model.anatomy.blocks)
    found = [layer for layer, block in blocks if block.attention is not None]
    if not found:
        model.anatomy.tap(Site("z", 0))  # raises, and says why
    return found


def plan_of(model: LensModel, text: Tokens, query: Any, sources: Any, subject: Any) -> Plan:
    """Resolve what `knockout` is given for one text.

    Raises
    ------
    InputError
        It names no query, or nothing or everything before it.
    """
    asked = model.positions(text, query)
    if len(asked) != 1:
        raise InputError(f"query names {len(asked)} positions; expected one.")
    (place,) = asked
    if sources is not None:
        if not isinstance(sources, Mapping) or not sources:
            raise InputError("sources maps names to positions, such as {'subject': 'France'}.")
        groups = {str(name): tuple(model.positions(text, at)) for name, at in sources.items()}
    elif subject is not None:
        named = subject_positions(model, text, subject)
        others = tuple(i for i in range(place) if i not in named)
        groups = {"subject": named, "other": others, "last": (place,)}
    else:
        groups = {f"{i} {text.strings[0][i]}".strip(): (i,) for i in range(place)}
    if not groups:
        raise InputError("The query is the first position: there is nothing before it to block.")
    for name, keys in groups.items():
        if set(keys) >= set(range(place + 1)):
            raise InputError(
                f"The source {name!r} holds every position that the query sees (0 to {place}): "
                "leave it at least one to look at."
            )
    return Plan(place, groups)


class Look(NamedTuple):
    """What the heads of a layer see from the query, and how much they look at it.

    Attributes
    ----------
    visible
        Bool ``[head, position]``.
    pattern
        ``[head, position]``.
    """

    visible: Tensor
    pattern: Tensor


def looks(model: LensModel, text: Tokens, query: int, layers: Sequence[int]) -> dict[int, Look]:
    """What each head of some layers sees from the query, from one pass."""
    found: dict[Site, Tensor] = {}

    def look(site: Site, value: Tensor) -> None:
        found[site] = value[0, :, query].cpu()

    kinds = ("attn_scores", "pattern")
    forward(model, text, [Site(kind, n) for n in layers for kind in kinds], look, logits=None)
    return {
        n: Look(found[Site("attn_scores", n)] > -torch.inf, found[Site("pattern", n)].clone())
        for n in layers
    }


def blind(found: Mapping[int, Look], plan: Plan, name: str, layers: Sequence[int]) -> bool:
    """Whether blocking a group would leave a head of these layers nothing to look at."""
    rest = [key for key in range(plan.query + 1) if key not in plan.groups[name]]
    return any(not found[layer].visible[:, rest].any(-1).all() for layer in layers)


def hidden(plan: Plan, name: str) -> tuple[int, ...]:
    """The positions of a group that the query could see; none where all lie behind it."""
    return tuple(key for key in plan.groups[name] if key <= plan.query)


def blocked(plan: Plan, name: str, layers: Sequence[int]) -> list[Change]:
    """Block a group from the query in these layers; nothing where it is all behind the query."""
    keys = hidden(plan, name)
    return [_blocked(layer, plan.query, keys) for layer in layers if keys]


def _blocked(layer: int, query: int, keys: tuple[int, ...]) -> Change:
    return Change(Site("attn_scores", layer), "block", positions=(query,), keys=keys)
