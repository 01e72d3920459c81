"""R-Sparse: products with few input channels, and a product of low rank in place of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layerlens.model.matrices import matrices
from layerlens.model.watch import first_tensor

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

WAYS = ("sparse", "channels", "random")


@dataclass(frozen=True)
class Budget:
    """What of a product is kept.

    Attributes
    ----------
    channels
        Input channels of each token that go through the matrix itself.
    rank
        Of the matrix that all others go through.
    share
        Multiplications, as a share of those of the whole product.
    """

    channels: int
    rank: int
    share: float

    @classmethod
    def of(cls, weight: Tensor, sparsity: float, split: float) -> Budget:
        """Spend ``1 - sparsity`` of the multiplications, ``split`` of them on channels."""
        out, width = weight.shape
        kept = (1 - sparsity) * width
        channels = int(kept * split + 1e-9)
        rank = int(max(0.0, (kept * out - channels * out) / (width + out)) + 1e-9)
        return cls(channels, rank, (channels * out + rank * (width + out)) / (width * out))


class Factors:
    """A linear module and the singular vectors of its weight.

    Parameters
    ----------
    module
        A linear layer.
    weight
        ``[out, in]``, what it multiplies with.
    """

    def __init__(self, module: nn.Module, weight: Tensor) -> None:
        self.module, self.weight = module, weight
        self._left, sizes, right = torch.linalg.svd(weight.float(), full_matrices=False)
        self._right = sizes[:, None] * right

    def low_rank(self, rank: int) -> Tensor:
        """The nearest matrix of this rank, ``[out, in]`` float32."""
        nearest: Tensor = self._left[:, :rank] @ self._right[:rank]
        return nearest

    def scale(self, rank: int) -> Tensor:
        """How much of each channel the matrix of this rank passes on, ``[in]``; 1 for rank 0."""
        return self._right[:rank].norm(dim=0) if rank else torch.ones_like(self._right[0])


def layer_factors(model: LensModel, layer: int, tick: Callable[[], None]) -> list[Factors]:
    """Singular vectors of a layer's weights; ``tick`` is called before each and may stop."""
    path, found = model.anatomy.blocks[layer].path, []
    for matrix in matrices(model, layer):
        tick()
        found.append(Factors(model.hf.get_submodule(f"{path}.{matrix.name}"), matrix.weight))
    return found


@contextmanager
def sparse(
    factors: Sequence[Factors], way: str, sparsity: float, split: float, seed: int
) -> Iterator[None]:
    """Let linear modules compute with less in a ``with`` block.

    Parameters
    ----------
    way
        ``sparse``: of each token the channels with the largest ``|x| * scale`` are kept, the
        others go through a matrix of low rank. ``channels``: all that may be spent is spent on
        the channels with the largest ``|x|``. ``random``: as ``sparse``, with channels drawn at
        random once for each module.
    sparsity, split
        See `Budget.of`.
    seed
        Of the channels that are drawn.
    """
    with ExitStack() as stack:
        for number, one in enumerate(factors):
            hook = _hook(one, way, Budget.of(one.weight, sparsity, share_of(way, split)))
            if way == "random":
                hook = _random(one, sparsity, split, seed + number)
            handle = one.module.register_forward_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        yield


def share_of(way: str, split: float) -> float:
    """The share of the budget that goes to channels."""
    return 1.0 if way == "channels" else split


Hook = Callable[..., Tensor]


def _hook(one: Factors, way: str, budget: Budget) -> Hook:
    scale = one.scale(budget.rank)

    def dropped(x: Tensor) -> Tensor:
        size = x.abs().float() * scale
        kept = size.topk(budget.channels, dim=-1).indices
        return x.scatter(-1, kept, 0.0)

    return _without(one, budget.rank, dropped)


def _random(one: Factors, sparsity: float, split: float, seed: int) -> Hook:
    budget = Budget.of(one.weight, sparsity, split)
    width = one.weight.shape[1]
    order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
    kept = order[: budget.channels].to(one.weight.device)
    return _without(one, budget.rank, lambda x: x.index_fill(-1, kept, 0.0))


def _without(one: Factors, rank: int, dropped: Callable[[Tensor], Tensor]) -> Hook:
    """What the module gives, less what its low-rank matrix misses of the dropped channels."""
    missed = (one.weight.float() - one.low_rank(rank)).to(one.weight.dtype)

    def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> Tensor:
        x = args[0] if args else next(iter(kwargs.values()))
        return first_tensor(output) - dropped(x) @ missed.T

    return hook
