"""The weight matrices of a block, each turned so that its rows are output channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


@dataclass(frozen=True, eq=False)
class Matrix:
    """One weight matrix, or the stacked matrices of a mixture of experts.

    Attributes
    ----------
    name
        Path within the block, without ``.weight``: ``self_attn.q_proj``.
    parameter
        The model's own.
    turned
        The parameter is ``[in, out]`` (as in GPT-2) and not ``[out, in]``.
    """

    name: str
    parameter: nn.Parameter
    turned: bool = False

    @property
    def weight(self) -> Tensor:
        """``[out, in]``, or ``[expert, out, in]``: a view of the parameter."""
        return self.parameter.mT if self.turned else self.parameter


def matrices(model: LensModel, layer: int) -> list[Matrix]:
    """The linear weights of a block, in the order of its modules.

    Norms, biases, convolutions and the router of a mixture of experts are left out.

    Raises
    ------
    InputError
        When they are quantised or not in memory, so that they cannot be read as numbers.
    """
    block = model.hf.get_submodule(model.anatomy.blocks[layer].path)
    found: list[Matrix] = []
    for path, module in block.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            weight: Any = module.weight
            found.append(Matrix(path, weight, isinstance(module, Conv1D)))
            continue
        for name, parameter in module.named_parameters(recurse=False):
            # Experts are stacked in one parameter; a convolution's has three axes too.
            if parameter.dim() == 3 and not hasattr(module, "kernel_size"):
                turned = bool(getattr(module, "is_transposed", False))
                found.append(Matrix(f"{path}.{name}" if path else name, parameter, turned))
    for matrix in found:
        _require_numbers(model, layer, matrix)
    return found


def require_matrices(model: LensModel) -> None:
    """Raise InputError where the matrices of a model cannot be read, or it has none."""
    if not any(matrices(model, layer) for layer in range(model.n_layers)):
        raise InputError(f"No block of {model.name} has a weight matrix that could be read.")


def _require_numbers(model: LensModel, layer: int, matrix: Matrix) -> None:
    weight = matrix.parameter
    if weight.is_meta:
        raise InputError(
            f"{matrix.name} of layer {layer} is not in memory (offloaded): load {model.name} "
            "without offloading to read its weights."
        )
    if not weight.is_floating_point() or weight.element_size() < 2:
        kind = str(weight.dtype).removeprefix("torch.")
        raise InputError(
            f"{matrix.name} of layer {layer} is quantised ({kind}): load {model.name} in float32 "
            "or bfloat16 to read its weights."
        )
