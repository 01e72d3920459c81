"""What each head does in a text, read off a result of ``ll.attention``."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

ROLE_ABOVE = {
    "induction": 0.5,
    "previous_token": 0.5,
    "duplicate_token": 0.5,
    "delimiter": 0.5,
    "sink_mass": 0.5,
    "local": 0.9,
}
"""A head has a role where its share is larger than this; the more telling roles come first."""

ROLE_RULE = (
    "A head has a role where more than half of its attention goes there (nine tenths for local), "
    "over the queries that could look there; the first query does not count."
)


class Role(TypedDict):
    """What a head does, with its share."""

    layer: int
    head: int
    role: str
    score: float


def roles_of(data: xr.Dataset) -> list[Role]:
    """Return the roles of all heads of a result of one text.

    The more telling roles come first, and of one role the strongest heads.
    """
    found = []
    for role, above in ROLE_ABOVE.items():
        if role not in data.data_vars:
            continue
        scores = data[role].transpose("layer", "head").values
        for index, head in np.argwhere(scores > above):
            layer = int(data["layer"].values[index])
            score = round(float(scores[index, head]), 4)
            found.append(Role(layer=layer, head=int(head), role=role, score=score))
    return sorted(found, key=_telling)


def most_telling(roles: list[Role], layer: int | None = None) -> Role | None:
    """Return the role that says most, of all heads or of those of a layer; None without any."""
    mine = [one for one in roles if layer in (None, one["layer"])]
    return min(mine, key=_telling, default=None)


def _telling(role: Role) -> tuple[int, float]:
    return list(ROLE_ABOVE).index(role["role"]), -role["score"]
