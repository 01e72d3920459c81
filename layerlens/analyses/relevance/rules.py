"""Rules by which relevance goes back through a model, and what is left to biases on the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

from layerlens.model.linear import is_plain
from layerlens.run.flow import Flow

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

FLOWS = {
    "attnlrp": Flow(query_key=0.25, value=0.5, product=0.5, gate=1.0),
    "cp": Flow(query_key=0.0, value=1.0, product=1.0, gate=0.0),
}
"""Rules that change what a derivative flows through. AttnLRP halves it at each product of two
things that depend on the input: of gate and up once; of query and key, and of the pattern and the
values, so that queries and keys get a quarter. CP holds the pattern and the gate."""

RULES = (*FLOWS, "input_x_gradient", "gradient", "integrated")

SPLITTING = (*FLOWS, "input_x_gradient")
"""Those that divide an answer among what passes at any place, by one pass."""

CONSERVING = ("cp", "integrated")
"""Those whose relevance, with what has no token, adds up to the answer at every depth."""


@contextmanager
def biases(model: LensModel) -> Iterator[dict[str, nn.Parameter]]:
    """What plain layers add whatever they are given, by path; gradients are recorded by it."""
    found = {
        path: module.bias
        for path, module in model.hf.named_modules()
        if isinstance(getattr(module, "bias", None), nn.Parameter)
        and is_plain(module)
        and not module.bias.is_inference()
    }
    before = {path: bias.requires_grad for path, bias in found.items()}
    try:
        for bias in found.values():
            bias.requires_grad_(True)
        yield found
    finally:
        for path, bias in found.items():
            bias.requires_grad_(before[path])


def layer_of(model: LensModel, path: str) -> int:
    """The block that a module is part of; -1 before the first, ``n_layers`` behind the last."""
    for layer, block in enumerate(model.anatomy.blocks):
        if path.startswith(f"{block.path}."):
            return layer
    head = model.anatomy.head
    after = () if head is None else (*head.chain, head.head)
    behind = any(path == last or path.startswith(f"{last}.") for last in after)
    return model.n_layers if behind else -1
