"""Patches as the front end writes them, and as the bench runs them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from layerlens.errors import InputError
from layerlens.export.patch_meta import SITES

if TYPE_CHECKING:
    from layerlens.analyses.patching.hand_patches import Patch

MAX_EDITS = 200


def normal(edits: Any) -> list[dict[str, Any]]:
    """Return a list of patches with every field, or say what is wrong with one.

    A patch is ``{"site", "layer", "position", "head", "from": {"layer", "position"}, "on"}``;
    `position` and `head` may be None for all, `from` is the same place where it is left out.

    Raises
    ------
    InputError
        It is no list of patches.
    """
    if not isinstance(edits, list | tuple) or len(edits) > MAX_EDITS:
        raise InputError(f"Patches are a list of at most {MAX_EDITS}.")
    return [_normal(edit) for edit in edits]


def _normal(edit: Any) -> dict[str, Any]:
    if not isinstance(edit, Mapping):
        raise InputError(f"A patch is a dict with site, layer and position, not {edit!r}.")
    unknown = set(edit) - {"site", "layer", "position", "head", "from", "on"}
    if unknown or edit.get("site") not in SITES:
        wrong = f"'{sorted(unknown)[0]}'" if unknown else f"the site {edit.get('site')!r}"
        raise InputError(f"A patch has no {wrong}; its site is one of {', '.join(SITES)}.")
    layer, position = _number(edit, "layer"), _number(edit, "position", optional=True)
    origin = edit.get("from") or {"layer": layer, "position": position}
    if not isinstance(origin, Mapping):
        raise InputError(f"'from' of a patch is a dict with layer and position, not {origin!r}.")
    return {
        "site": str(edit["site"]),
        "layer": layer,
        "position": position,
        "head": _number(edit, "head", optional=True),
        "from": {
            "layer": _number(origin, "layer"),
            "position": _number(origin, "position", optional=True),
        },
        "on": bool(edit.get("on", True)),
    }


def _number(edit: Mapping[str, Any], name: str, *, optional: bool = False) -> int | None:
    value = edit.get(name)
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        allowed = "a number from 0, or null for all" if optional else "a number from 0"
        raise InputError(f"'{name}' of a patch is {allowed}, not {value!r}.")
    return value


def patches(edits: Iterable[Mapping[str, Any]]) -> list[Patch]:
    """Return those of some normal patches that are on, for the bench."""
    from layerlens.analyses.patching.hand_patches import Patch, Place

    return [
        Patch(
            edit["site"],
            Place(edit["layer"], edit["position"]),
            Place(edit["from"]["layer"], edit["from"]["position"]),
            edit["head"],
        )
        for edit in edits
        if edit["on"]
    ]
