"""What the head is given at every point of a lens for some states that are read together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.lenses.one_pass import head_source
from layerlens.errors import LayerLensError
from layerlens.model.sites import Site

if TYPE_CHECKING:
    from layerlens.analyses.lenses.points import Point
    from layerlens.analyses.lenses.readers import Reader
    from layerlens.model.lensmodel import LensModel
    from layerlens.run.head_rows import Head


@dataclass(frozen=True)
class Rows:
    """Rows for the head, in groups: the model's own final row of a position, then its points.

    Attributes
    ----------
    x
        ``[n * group, d_head]``.
    order
        Where in a group each point, and after them the final row, stands.
    group
        Rows in a group; a last state that is what the model feeds its head has none of its own.
    """

    x: Tensor
    order: list[int]
    group: int

    def by_point(self, values: Tensor) -> Tensor:
        """What was computed for each row, ``[n * group, ...]``, as ``[n, point, ...]``."""
        grouped: Tensor = values.unflatten(0, (-1, self.group))
        return grouped[:, self.order]


class NewestRows:
    """The rows of a lens at one position of each text.

    Parameters
    ----------
    model, reader
        What is read, and how.
    points
        Which points; the final row comes after them.
    head
        The model's head.
    """

    def __init__(
        self, model: LensModel, reader: Reader, points: Sequence[Point], head: Head
    ) -> None:
        self._reader, self._points, self._head = reader, points, head
        self._source, self._head_input = head_source(model)
        self._before = {
            point: Site("resid_pre", point.layer)
            for point in points
            if point.is_state and point.layer >= 0
        }

    @property
    def sites(self) -> list[Site]:
        """What has to be read."""
        own = [point.site for point in self._points]
        return list(dict.fromkeys([*own, *self._before.values(), self._source]))

    def rows(self, states: Mapping[Site, Tensor]) -> Rows:
        """Rows for states ``[n, d_model]``, one for each of the sites.

        Raises
        ------
        LayerLensError
            A state holds NaN or infinity.
        """
        final = self._head.accept(self._head_input(states[self._source]))
        found, order = [final], []
        for point in self._points:
            state = states[point.site]
            if not bool(torch.isfinite(state).all()):
                raise LayerLensError(
                    f"The model's activations hold NaN or infinity from {point.label} on: check "
                    "its weights and dtype (float16 overflows where bfloat16 or float32 do not)."
                )
            x = self._head.accept(self._reader.decode(point, state))
            same = torch.equal(x, final)
            order.append(0 if same else len(found))
            found += [] if same else [x]
        return Rows(torch.stack(found, 1).flatten(0, 1), [*order, 0], len(found))

    def cosines(self, states: Mapping[Site, Tensor]) -> Tensor:
        """Cosine ``[n, point]`` of each state with the one that its block was given.

        NaN where there is none: at the embedding, for a sublayer's output, for the final row.
        """
        some = states[self._source]
        found = torch.full((len(some), len(self._points) + 1), float("nan"))
        for place, point in enumerate(self._points):
            if point in self._before:
                pair = states[point.site].float(), states[self._before[point]].float()
                found[:, place] = torch.cosine_similarity(*pair, dim=-1).cpu()
        return found
