"""What a position may not look at: groups of positions before it, and how they are blocked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from layerlens.analyses.texts.subjects import subject_positions
from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from torch import Tensor

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


def visible_keys(
    model: LensModel, text: Tokens, query: int, layers: Sequence[int]
) -> dict[int, np.ndarray]:
    """Which positions each head sees from the query: layer to bool ``[head, position]``."""
    found: dict[int, np.ndarray] = {}

    def look(site: Site, value: Tensor) -> None:
        found[site.block] = (value[0, :, query] > -torch.inf).cpu().numpy()

    forward(model, text, [Site("attn_scores", layer) for layer in layers], look, logits=None)
    return found


def blind(visible: Mapping[int, np.ndarray], plan: Plan, name: str, layers: Sequence[int]) -> bool:
    """Whether blocking a group would leave a head of these layers nothing to look at."""
    rest = [key for key in range(plan.query + 1) if key not in plan.groups[name]]
    return any(not visible[layer][:, rest].any(-1).all() for layer in layers)


def blocked(plan: Plan, name: str, layers: Sequence[int]) -> list[Change]:
    """Block a group from the query in these layers; nothing where it is all behind the query."""
    keys = tuple(key for key in plan.groups[name] if key <= plan.query)
    return [_blocked(layer, plan.query, keys) for layer in layers if keys]


def _blocked(layer: int, query: int, keys: tuple[int, ...]) -> Change:
    return Change(Site("attn_scores", layer), "block", positions=(query,), keys=keys)
