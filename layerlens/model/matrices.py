"""The weight matrices of a block, each turned so that its rows are output channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from layerlens.errors import InputError
from layerlens.model.adapters import Adapted, adapted
from layerlens.model.offloaded import brought
from layerlens.model.weights import is_dense

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


@dataclass(frozen=True, eq=False)
class Matrix:
    """One weight matrix, or the stacked matrices of a mixture of experts.

    Attributes
    ----------
    name
        Path within the block, without ``.weight``: ``self_attn.q_proj``.
    block, path
        The block, and where in it the parameter is.
    turned
        The parameter is ``[in, out]`` (as in GPT-2) and not ``[out, in]``.
    layer
        The layer with its adapters, where it has some: they are part of the weight.
    """

    name: str
    block: nn.Module
    path: str
    turned: bool = False
    layer: Adapted | None = None

    @property
    def parameter(self) -> nn.Parameter:
        """The model's own; of an adapted layer that of the layer below the adapter.

        Of an offloaded one it is on ``meta`` and has only a shape, unless the block is `present`;
        then it is another object after each pass.
        """
        return self.block.get_parameter(self.path) if self.layer is None else self.layer.parameter

    @property
    def weight(self) -> Tensor:
        """``[out, in]``, or ``[expert, out, in]``: a view of the parameter.

        Of an adapted layer a new tensor: what the layer and its adapters, as they are set now,
        compute together. Of an offloaded one what was read of it, each time anew.
        """
        if self.layer is not None:
            return self.layer.matrix()
        own = brought(self.block, self.path)
        return own.mT if self.turned else own

    @property
    def stacked(self) -> bool:
        """Whether it holds the matrices of several experts."""
        return self.parameter.dim() == 3


def matrices(model: LensModel, layer: int) -> list[Matrix]:
    """The linear weights of a block, in the order of its modules.

    Norms, biases, convolutions and the router of a mixture of experts are left out. A layer with
    an adapter (LoRA and its kin) is one matrix.

    Raises
    ------
    InputError
        When they are quantised, so that they cannot be read as numbers, or offloaded and adapted.
    """
    block = model.hf.get_submodule(model.anatomy.blocks[layer].path)
    found = _matrices(block, "", block)
    for matrix in found:
        _require_numbers(model, layer, matrix)
    return found


def _matrices(block: nn.Module, path: str, module: nn.Module) -> list[Matrix]:
    if (layer := adapted(module)) is not None:
        return [Matrix(path, block, "", isinstance(layer.base, Conv1D), layer)]
    if isinstance(module, nn.Linear | Conv1D):
        return [Matrix(path, block, f"{path}.weight", isinstance(module, Conv1D))]
    found = []
    for name, parameter in module.named_parameters(recurse=False):
        # Experts are stacked in one parameter; a convolution's has three axes too.
        if parameter.dim() == 3 and not hasattr(module, "kernel_size"):
            turned = bool(getattr(module, "is_transposed", False))
            own = f"{path}.{name}" if path else name
            found.append(Matrix(own, block, own, turned))
    for name, child in module.named_children():
        found += _matrices(block, f"{path}.{name}" if path else name, child)
    return found


def require_matrices(model: LensModel) -> None:
    """Raise InputError where the matrices of a model cannot be read, or it has none."""
    if not any(matrices(model, layer) for layer in range(model.n_layers)):
        raise InputError(f"No block of {model.name} has a weight matrix that could be read.")


def _require_numbers(model: LensModel, layer: int, matrix: Matrix) -> None:
    weight = matrix.parameter if matrix.layer else brought(matrix.block, matrix.path)
    if weight.is_meta:
        raise InputError(
            f"{matrix.name} of layer {layer} is not in memory, and has an adapter or is not kept "
            f"by accelerate: load {model.name} without offloading to read its weights."
        )
    if not is_dense(weight):
        own = type(weight)
        plain = own in (Tensor, nn.Parameter)
        kind = str(weight.dtype).removeprefix("torch.") if plain else own.__name__
        raise InputError(
            f"{matrix.name} of layer {layer} is quantised ({kind}): load {model.name} in float32 "
            "or bfloat16 to read its weights."
        )
