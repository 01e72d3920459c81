"""The weights of a model, block by block and outside of them, held against another model's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from layerlens.errors import InputError
from layerlens.model.offloaded import brought

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


def parameters_of(model: LensModel, layer: int) -> dict[str, nn.Parameter]:
    """The parameters of a block by their names within it.

    Raises
    ------
    InputError
        One is quantised or not in memory.
    """
    block = model.hf.get_submodule(model.anatomy.blocks[layer].path)
    found = dict(block.named_parameters())
    for name, weight in found.items():
        _require_numbers(model, f"{name} of layer {layer}", weight)
    return found


def of_block(model: LensModel, layer: int) -> dict[str, Tensor]:
    """The numbers of a block's parameters, read from where they are if they are offloaded.

    Raises
    ------
    InputError
        One is quantised, or has no numbers anywhere.
    """
    block = model.hf.get_submodule(model.anatomy.blocks[layer].path)
    found = {name: brought(block, name).data for name, _ in block.named_parameters()}
    for name, weight in found.items():
        _require_numbers(model, f"{name} of layer {layer}", weight)
    return found


def parameters_outside(model: LensModel) -> dict[str, nn.Parameter]:
    """Parameters that are in no block, by their full names; tied ones once."""
    inside = tuple(f"{block.path}." for block in model.anatomy.blocks)
    return {
        name: weight for name, weight in model.hf.named_parameters() if not name.startswith(inside)
    }


def outside_blocks(model: LensModel) -> dict[str, Tensor]:
    """The numbers of :func:`parameters_outside`."""
    return {name: brought(model.hf, name).data for name in parameters_outside(model)}


def short_names(names: list[str]) -> list[str]:
    """Short names, each of its own: the last parts of the paths, without ``.weight``.

    Examples
    --------
    >>> short_names(["attn.c_proj.weight", "attn.c_attn.bias", "mlp.c_proj.weight", "ln_1.weight"])
    ['attn.c_proj', 'c_attn.bias', 'mlp.c_proj', 'ln_1']
    """
    paths = [name.removesuffix(".weight").split(".") for name in names]
    # One more part than needed for a bias, whose last part says nothing.
    least = [2 if path[-1] == "bias" else 1 for path in paths]

    def tail(path: list[str], length: int) -> str:
        return ".".join(path[-length:])

    short = []
    for path, length in zip(paths, least, strict=True):
        while length < len(path) and sum(tail(p, length) == tail(path, length) for p in paths) > 1:
            length += 1
        short.append(tail(path, length))
    return short


def require_alike(model: LensModel, other: LensModel) -> None:
    """Raise InputError where a weight of a block has no counterpart of its shape."""
    if model.n_layers != other.n_layers:
        raise InputError(
            f"{model.name} has {model.n_layers} blocks and {other.name} {other.n_layers}: give two "
            "checkpoints of one architecture."
        )
    for layer in range(model.n_layers):
        a, b = of_block(model, layer), of_block(other, layer)
        for name in a.keys() | b.keys():
            shapes = [tuple(w[name].shape) if name in w else "missing" for w in (a, b)]
            if shapes[0] != shapes[1]:
                raise InputError(
                    f"{name} of layer {layer} is {shapes[0]} in {model.name} and {shapes[1]} in "
                    f"{other.name}: give two checkpoints of one architecture."
                )


def _require_numbers(model: LensModel, name: str, weight: Tensor) -> None:
    if weight.is_meta or not weight.is_floating_point() or weight.element_size() < 2:
        raise InputError(
            f"{name} of {model.name} is quantised or not in memory: load it in float32 or "
            "bfloat16 to compare its weights."
        )
