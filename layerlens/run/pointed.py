"""Parameters that point to other numbers for a while, and back at the very same memory after."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from layerlens.model.offloaded import brought

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

Point = Callable[[nn.Parameter, Tensor], None]
"""Lets one of the parameters point to other numbers of its shape and dtype."""


@contextmanager
def pointed(parameters: Sequence[nn.Parameter]) -> Iterator[Point]:
    """Let parameters point elsewhere in a ``with`` block.

    Their own numbers are never written to, so that they need not be copied, and at the end,
    whatever happens, every parameter points to its own again. Hold the model's lock.

    Examples
    --------
    >>> layer = nn.Linear(1, 1, bias=False)
    >>> own = layer.weight.item()
    >>> with pointed([layer.weight]) as point:
    ...     point(layer.weight, torch.tensor([[2.0]]))
    ...     layer(torch.ones(1)).item()
    2.0
    >>> layer.weight.item() == own
    True
    """
    # A tensor that is made in inference mode cannot be the data of a parameter.
    with torch.inference_mode(False):
        own = [parameter.data for parameter in parameters]

    def point(parameter: nn.Parameter, numbers: Tensor) -> None:
        with torch.inference_mode(False), torch.no_grad():
            parameter.data = numbers

    try:
        yield point
    finally:
        for parameter, data in zip(parameters, own, strict=True):
            point(parameter, data)


def places_and_sums(model: LensModel) -> list[tuple[int, float]]:
    """Where each weight lies and what it sums up to, to tell whether any was left elsewhere."""
    return [
        (p.data_ptr(), float(brought(model.hf, name).sum(dtype=torch.float32)))
        for name, p in model.hf.named_parameters()
    ]
