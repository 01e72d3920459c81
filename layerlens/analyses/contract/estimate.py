"""What a call will cost, before it is made."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layerlens.corpus.texts import Texts
from layerlens.model.lensmodel import LensModel
from layerlens.model.plan import PROBE_ROWS, product_speed
from layerlens.model.unloaded import Unloaded
from layerlens.run.head_rows import Head

if TYPE_CHECKING:
    from layerlens.model.runs import Runs
    from layerlens.model.text import Tokens

UNPROVEN = "nothing was loaded or proven: where its parts are was seen on a small model of its make"


@dataclass(frozen=True)
class Work:
    """How much an analysis will do, counted and not measured.

    Parameters
    ----------
    passes
        Forward passes over all tokens.
    head_rows
        Rows that go through the head.
    bytes
        Peak memory above the model's own.
    tokens
        Tokens of a pass, for an analysis that makes them itself; None: those of its first text.
    operations
        Floating-point operations beside the passes, where these are what takes time.
    steps
        Tokens that are written one after the other: each has every weight read for itself, which
        takes longer than its operations.
    """

    passes: float
    head_rows: int
    bytes: int
    tokens: int | None = None
    operations: float = 0.0
    steps: int = 0


@dataclass(frozen=True)
class Estimate:
    """An estimate of one call.

    Attributes
    ----------
    passes
        Forward passes over all tokens.
    seconds
        From operation counts at the speed of a probe; good to a factor of about two.
    bytes
        Peak memory above the model's own.
    how
        How ``seconds`` was found.
    tokens
        Tokens of a pass.
    """

    passes: float
    seconds: float
    bytes: int
    how: str
    tokens: int = 0

    def __str__(self) -> str:
        return (
            f"{self.passes:g} forward passes, about {self.seconds:.2g} s, "
            f"{self.bytes / 1e6:.0f} MB above the model ({self.how})"
        )


def estimate_work(
    model: LensModel | Runs, fed: Mapping[str, Tokens | Texts], work: Work
) -> Estimate:
    """Seconds for counted work, from the speed of one product with this model.

    Parameters
    ----------
    fed
        By the name of each text; those of the first one count.
    """
    speed, how = _speed(model)
    tokens = _tokens_in(fed) if work.tokens is None else work.tokens
    operations = work.operations
    blocks = head = 0
    if isinstance(model, LensModel):
        head, blocks = model.d_vocab * model.d_model, _in_blocks(model)
        operations += 2.0 * blocks * tokens * work.passes + 2.0 * head * work.head_rows
    seconds = operations / speed
    how = f"operation counts at {speed / 1e9:.2g} GFLOP/s, timed on {how}"
    if work.steps:
        slow, one = _speed(model, 1)
        seconds += 2.0 * (blocks + head) * work.steps / slow
        how += f"; {work.steps} steps of one token at {slow / 1e9:.2g} GFLOP/s, on {one}"
    if isinstance(model, Unloaded):
        how += f"; {UNPROVEN}"
    return Estimate(work.passes, seconds, work.bytes, how, tokens)


def _speed(model: LensModel | Runs, rows: int = PROBE_ROWS) -> tuple[float, str]:
    """Operations a second in a product of so many rows, and in words of what."""
    if not isinstance(model, Unloaded):
        return _operations_per_second(model, rows)
    return product_speed(model.dtype, rows), f"{rows} rows of a product" if rows > 1 else "a row"


def operations_of(
    model: LensModel | Runs, fed: Mapping[str, Tokens | Texts], work: Work
) -> tuple[int, float]:
    """Tokens of a pass, and floating-point operations of counted work, passes included.

    Parameters
    ----------
    fed
        By the name of each text; those of the first one count.
    """
    tokens = _tokens_in(fed) if work.tokens is None else work.tokens
    blocks, head = _weights(model)
    passes = 2.0 * blocks * tokens * work.passes + 2.0 * head * work.head_rows
    return tokens, work.operations + passes


def _weights(model: LensModel | Runs) -> tuple[int, int]:
    """What a token is multiplied with in the blocks, and a row in the head; 0 of runs."""
    if not isinstance(model, LensModel):
        return 0, 0
    return _in_blocks(model), model.d_vocab * model.d_model


def _tokens_in(fed: Mapping[str, Tokens | Texts]) -> int:
    """Tokens of one pass over the first text."""
    first = next(iter(fed.values()), None)
    if isinstance(first, Texts):
        raise RuntimeError("work() of an analysis that reads a corpus states its tokens")
    return 0 if first is None else int(first.ids.numel())


def _in_blocks(model: LensModel) -> int:
    """Parameters that every token of every pass is multiplied with.

    Tables of embeddings are looked up, and rows through the head are counted by themselves.
    """
    hf: Any = model.hf
    apart = [module for module in hf.modules() if isinstance(module, nn.Embedding)]
    apart += [hf.get_input_embeddings(), hf.get_output_embeddings()]
    aside = {id(p) for module in apart if module is not None for p in module.parameters()}
    return sum(p.numel() for p in hf.parameters() if id(p) not in aside)


def _operations_per_second(model: LensModel | Runs, rows: int = PROBE_ROWS) -> tuple[float, str]:
    """Speed of a product of so many rows, and in words of which."""
    head = isinstance(model, LensModel) and model.anatomy.head
    with model.running():
        if isinstance(model, LensModel) and head:
            product, x, out = _head_product(model, rows)
        else:
            product, x, out = _largest_product(model, rows)
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            product(x)[:, 0].sum().item()
            seconds.append(time.perf_counter() - started)
    what = "the head" if head else "the largest matrix"
    words = "a row" if len(x) == 1 else f"{len(x)} rows"
    return 2.0 * x.numel() * out / min(seconds), f"{words} of {what}"


Product = tuple[Callable[[Tensor], Tensor], Tensor, int]
"""A product with a matrix, what goes in, and the width of what comes out."""


def _head_product(model: LensModel, most: int) -> Product:
    head = Head.of(model)
    width = model.d_model if head.matrix is None else head.matrix.weight.shape[1]
    rows = min(most, head.rows)
    x = torch.zeros((rows, width), dtype=head.dtype, device=head.device)
    return head.logits, x, model.d_vocab


def _largest_product(model: LensModel | Runs, rows: int) -> Product:
    found = [p for p in model.hf.parameters() if p.dim() == 2 and p.is_floating_point()]
    weight = max(found, key=lambda p: (not p.is_meta, p.numel()))
    x = torch.zeros((rows, weight.shape[1]), dtype=weight.dtype, device=weight.device)
    return lambda x: x @ weight.T, x, len(weight)
