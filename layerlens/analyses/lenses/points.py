"""Which places of the residual stream, and which sublayers, a lens looks at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from layerlens.analyses.contract.options import nearest
from layerlens.errors import InputError
from layerlens.model.sites import Site

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

STATES = ("embed", "mid", "post")
COMPONENTS = ("attn_out", "mlp_out")


@dataclass(frozen=True)
class Point:
    """One row of a lens.

    Parameters
    ----------
    label
        ``embed``, ``3_mid``, ``3_post``, ``3_attn_out``, ``3_mlp_out``.
    site
        Where it is read.
    layer
        Its block; -1 for ``embed``.
    is_state
        Whether it is a state of the residual stream, not one sublayer's output.
    """

    label: str
    site: Site
    layer: int
    is_state: bool


def lens_points(model: LensModel, wanted: str | Sequence[str]) -> list[Point]:
    """Find the points that were asked for, in the order in which a pass reaches them.

    Parameters
    ----------
    wanted
        Kinds (``embed``, ``mid``, ``post``, ``attn_out``, ``mlp_out``) or labels (``7_post``).

    Raises
    ------
    InputError
        When a word is neither; names the nearest.
    """
    if not isinstance(wanted, Iterable):
        raise InputError(f"points is {wanted!r}; expected kinds such as 'post', or labels.")
    names = [wanted] if isinstance(wanted, str) else [str(name) for name in wanted]
    every = _all_points(model)
    known = [*STATES, *COMPONENTS, *(point.label for point in every)]
    for name in names:
        if name not in known:
            error = nearest(name, known, "Lens point")
            text = str(error).split(" Valid are")[0].split("Valid are")[0]
            raise InputError(
                f"{text} Expected kinds ({', '.join((*STATES, *COMPONENTS))}) or labels such as "
                f"{every[-1].label!r}."
            )
    chosen = [p for p in every if p.label in names or _kind(p.label) in names]
    if not chosen:
        raise InputError(f"This model has no point of the kinds {names}: ask for 'post'.")
    return chosen


def sublayers_of(model: LensModel, point: Point) -> tuple[Site, ...]:
    """Find the sublayers that were added since the state before this one; none for ``embed``.

    After attention it is the attention, after a block its MLP, in a block that runs both beside
    each other both. A sublayer's own output has itself.
    """
    if not point.is_state:
        return (point.site,)
    every = _all_points(model)
    before = every[: every.index(point)]
    last = max((at for at, other in enumerate(before) if other.is_state), default=-1)
    return tuple(other.site for other in before[last + 1 :])


def _kind(label: str) -> str:
    return label.split("_", 1)[-1]


def _all_points(model: LensModel) -> list[Point]:
    """Every state and every sublayer output, as a pass reaches them."""
    before = {"mid": "attn_out", "post": "mlp_out"}
    points: list[Point] = []
    for label, site, layer in model.anatomy.points(STATES):
        component = before.get(_kind(label))
        parallel = component == "mlp_out" and f"{layer}_mid" not in {p.label for p in points}
        points.extend(
            Point(f"{layer}_{kind}", Site(kind, layer), layer, False)
            for kind in (COMPONENTS if parallel else (component,))
            if kind and kind in model.anatomy.blocks[layer].taps
        )
        points.append(Point(label, site, layer, True))
    return points
