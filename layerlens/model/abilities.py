"""What a model can be asked: whether it has a head, looks back only, has attention, and so on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from layerlens.model.weights import lost_weight

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

_INTEGERS = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")
"""Where torch has modules that pass no gradient on; what went through them would count as zero."""


def _head(model: LensModel) -> str:
    if model.anatomy.head is not None:
        return ""
    return (
        "has no language-model head, nor one of classes that could be read: load it with a class "
        "that has one, such as AutoModelForCausalLM"
    )


def _causal(model: LensModel) -> str:
    if not model.bidirectional:
        return ""
    return (
        "reads in both directions, so that there is no next token: give one that writes from left "
        "to right"
    )


def _attention(model: LensModel) -> str:
    if any(block.attention is not None for block in model.anatomy.blocks):
        return ""
    return "has no attention that could be watched: give another model"


def _gradients(model: LensModel) -> str:
    if lost_weight(model.hf) is not None:
        return "has weights that are not in memory, so no gradient is known: load them first"
    if any(type(module).__module__.startswith(_INTEGERS) for module in model.hf.modules()):
        return (
            "computes in integers (torch quantised it), which have no gradient: give the model as "
            "it was before"
        )
    return ""


def _experts(model: LensModel) -> str:
    for block in model.anatomy.blocks:
        for module in model.hf.get_submodule(block.path).modules():
            stacked = any(parameter.dim() == 3 for parameter in module.parameters(recurse=False))
            if getattr(module, "num_experts", 0) or (
                stacked and not hasattr(module, "kernel_size")
            ):
                return ""
    return "has no experts: give a mixture of experts"


ABILITIES: dict[str, Callable[[LensModel], str]] = {
    "head": _head,
    "causal": _causal,
    "attention": _attention,
    "gradients": _gradients,
    "experts": _experts,
}
"""By name, why a model lacks it, in words that go on after the model's name; "" if it does not."""


def reads_first(model: LensModel) -> bool:
    """Whether the model answers once, from its first position, as a classifier does."""
    head = model.anatomy.head
    return head is not None and head.pool is not None and head.pool.position == 0
