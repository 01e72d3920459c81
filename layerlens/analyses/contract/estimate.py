"""What a call will cost, before it is made."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from layerlens.run.head_rows import Head

if TYPE_CHECKING:
    from layerlens.analyses.contract.contract import Work
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

PROBE_ROWS = 64


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
    """

    passes: float
    seconds: float
    bytes: int
    how: str

    def __str__(self) -> str:
        return (
            f"{self.passes:g} forward passes, about {self.seconds:.2g} s, "
            f"{self.bytes / 1e6:.0f} MB above the model ({self.how})"
        )


def estimate_work(model: LensModel, tokens: Tokens, work: Work) -> Estimate:
    """Seconds for counted work, from the speed of one product with this model's head."""
    speed = _operations_per_second(model)
    fed = int(tokens.ids.numel())
    hf: Any = model.hf
    parameters = sum(p.numel() for p in hf.parameters())
    embedding = sum(p.numel() for p in hf.get_input_embeddings().parameters())
    head = model.d_vocab * model.d_model
    operations = 2.0 * (parameters - embedding) * fed * work.passes + 2.0 * head * work.head_rows
    how = f"operation counts at {speed / 1e9:.2g} GFLOP/s, timed on {PROBE_ROWS} rows of the head"
    return Estimate(work.passes, operations / speed, work.bytes, how)


def _operations_per_second(model: LensModel) -> float:
    with model.running():
        head = Head.of(model)
        width = model.d_model if head.matrix is None else head.matrix.weight.shape[1]
        x = torch.zeros((min(PROBE_ROWS, head.rows), width), dtype=head.dtype, device=head.device)
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            head.logits(x)[:, 0].sum().item()
            seconds.append(time.perf_counter() - started)
        return 2.0 * len(x) * width * model.d_vocab / min(seconds)
