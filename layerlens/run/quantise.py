"""Other weights in place of a layer's own for a while, such as those rounded to few bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.model.matrices import Matrix, matrices
from layerlens.run.pointed import pointed

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

MOST_BITS = 24
FLOAT32_BITS = 16


def fake_quantise(weight: Tensor, bits: int, group: int | None = None) -> Tensor:
    """Round weights to the nearest of ``2^bits - 1`` evenly spaced values, zero among them.

    Symmetric round-to-nearest: with ``s = max |w| / (2^(bits-1) - 1)`` of each output channel (or
    of each group of inputs of a channel), the result is ``s * round(w / s)``.

    Parameters
    ----------
    weight
        ``[..., out, in]``.
    bits
        2 to 24.
    group
        Inputs that share a scale; None for all of a channel. The last group may be smaller.

    Returns
    -------
    Tensor
        Of the same shape and dtype.

    Examples
    --------
    >>> fake_quantise(torch.tensor([[3.0, -1.6, 0.4]]), 3).tolist()
    [[3.0, -2.0, 0.0]]
    """
    # Quotients of float32 are exact enough as long as steps are much coarser than rounding.
    fine = bits > FLOAT32_BITS and weight.device.type != "mps"
    exact = torch.float64 if fine or weight.dtype == torch.float64 else torch.float32
    levels = 2 ** (bits - 1) - 1
    parts = weight.to(exact).split(group or weight.shape[-1], dim=-1)
    rounded = []
    for part in parts:
        scale = torch.linalg.vector_norm(part, ord=torch.inf, dim=-1, keepdim=True) / levels
        # A group of zeros has no scale and stays zero.
        rounded.append((part / scale.where(scale > 0, 1.0)).round_().mul_(scale))
    whole = rounded[0] if len(rounded) == 1 else torch.cat(rounded, -1)
    return whole.to(weight.dtype)


@contextmanager
def quantised(
    model: LensModel, layer: int, bits: int, group: int | None = None, chosen: str = ""
) -> Iterator[list[tuple[Matrix, Tensor]]]:
    """Let a block use rounded weights in a ``with`` block; see :func:`replaced`."""
    with replaced(model, layer, lambda weight: fake_quantise(weight, bits, group), chosen) as new:
        yield new


@contextmanager
def replaced(
    model: LensModel, layer: int, make: Callable[[Tensor], Tensor], chosen: str = ""
) -> Iterator[list[tuple[Matrix, Tensor]]]:
    """Let a block use other weights in a ``with`` block; hands over each and what replaces it.

    The model's own numbers are not written to, see :func:`layerlens.run.pointed.pointed`. Hold
    the model's lock.

    Parameters
    ----------
    make
        From the weight ``[..., out, in]`` to another of its shape and dtype.
    chosen
        Only matrices whose name contains this.
    """
    wanted = [matrix for matrix in matrices(model, layer) if chosen in matrix.name]
    new: list[tuple[Matrix, Tensor]] = []
    with (
        model.present([layer]),
        pointed([matrix.parameter for matrix in wanted]) as point,
    ):
        with torch.inference_mode(False), torch.no_grad():
            for matrix in wanted:
                weight = make(matrix.weight.data)
                new.append((matrix, weight))
                point(matrix.parameter, weight.mT if matrix.turned else weight)
        yield new


def require_quantisable(model: LensModel, layers: Sequence[int]) -> None:
    """Raise InputError where weights are quantised, adapted, or shared with another block."""
    if getattr(model.hf, "is_quantized", False) or getattr(model.hf, "hf_quantizer", None):
        raise InputError(
            f"{model.name} is quantised already, so rounding one layer says nothing: load it in "
            "float32 or bfloat16."
        )
    seen: dict[int, int] = {}
    for layer in range(model.n_layers):
        for matrix in matrices(model, layer):
            if matrix.layer is not None:
                raise InputError(
                    f"{matrix.name} of layer {layer} has an adapter, so it has no one weight to "
                    "round: merge the adapter into the model first."
                )
            first = seen.setdefault(id(matrix.parameter), layer)
            if first != layer and {first, layer} & set(layers):
                raise InputError(
                    f"{matrix.name} of layer {layer} is the same weight as in layer {first}: "
                    "layers that share weights cannot be rounded one by one."
                )
