"""Random neurons of a layer, moved by as much as one of them: what chance does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.neurons.neuron_directions import neuron_rows
from layerlens.model.sites import Site
from layerlens.run.changes import Change

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


class Others:
    """Some of the other neurons of a layer that write anything.

    Parameters
    ----------
    place
        Layer and number of the neuron that they are compared with.
    draws
        How many; fewer where the layer has no more.
    """

    def __init__(
        self,
        model: LensModel,
        place: tuple[int, int],
        draws: int,
        generator: np.random.Generator,
    ) -> None:
        self.site, self.index = Site("mlp_post", place[0]), place[1]
        self.drawn: list[int] = []
        if draws:
            self._length = neuron_rows(model, place[0], "output").norm(dim=1)
            every = [int(i) for i in torch.nonzero(self._length).flatten() if i != self.index]
            self.drawn = generator.permutation(every)[:draws].tolist()

    def moved(self, other: int, recorded: Tensor, value: float, where: Sequence[int]) -> Change:
        """Move one of them as far, in norm, as the neuron is moved to a value.

        Parameters
        ----------
        recorded
            The neuron as it is, ``[position, 1]``.
        """
        share = (self._length[self.index] / self._length[other]).to(recorded.device)
        step = (value - recorded.float()) * share
        return Change(self.site, "add", step, tuple(where), neurons=(other,))
