"""The weight matrices of a block, each turned so that its rows are output channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from layerlens.errors import InputError
from layerlens.model.adapters import Adapted, adapted
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
    parameter
        The model's own; of an adapted layer that of the layer below the adapter.
    turned
        The parameter is ``[in, out]`` (as in GPT-2) and not ``[out, in]``.
    layer
        The layer with its adapters, where it has some: they are part of the weight.
    """

    name: str
    parameter: nn.Parameter
    turned: bool = False
    layer: Adapted | None = None

    @property
    def weight(self) -> Tensor:
        """``[out, in]``, or ``[expert, out, in]``: a view of the parameter.

        Of an adapted layer a new tensor: what the layer and its adapters, as they are set now,
        compute together.
        """
        if self.layer is not None:
            return self.layer.matrix()
        return self.parameter.mT if self.turned else self.parameter

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
        When they are quantised or not in memory, so that they cannot be read as numbers.
    """
    block = model.hf.get_submodule(model.anatomy.blocks[layer].path)
    found = _matrices("", block)
    for matrix in found:
        _require_numbers(model, layer, matrix)
    return found


def _matrices(path: str, module: nn.Module) -> list[Matrix]:
    if (layer := adapted(module)) is not None:
        return [Matrix(path, layer.parameter, isinstance(layer.base, Conv1D), layer)]
    if isinstance(module, nn.Linear | Conv1D):
        weight: Any = module.weight
        return [Matrix(path, weight, isinstance(module, Conv1D))]
    found = []
    for name, parameter in module.named_parameters(recurse=False):
        # Experts are stacked in one parameter; a convolution's has three axes too.
        if parameter.dim() == 3 and not hasattr(module, "kernel_size"):
            turned = bool(getattr(module, "is_transposed", False))
            found.append(Matrix(f"{path}.{name}" if path else name, parameter, turned))
    for name, child in module.named_children():
        found += _matrices(f"{path}.{name}" if path else name, child)
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
    if not is_dense(weight):
        own = type(weight)
        plain = own in (Tensor, nn.Parameter)
        kind = str(weight.dtype).removeprefix("torch.") if plain else own.__name__
        raise InputError(
            f"{matrix.name} of layer {layer} is quantised ({kind}): load {model.name} in float32 "
            "or bfloat16 to read its weights."
        )
