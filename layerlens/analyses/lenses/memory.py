"""What a lens needs in memory, and how it fits under a ceiling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from layerlens.analyses.answers.divergence import COMPARE_BYTES
from layerlens.run.head_rows import STATISTICS_ROWS, product_rows, row_bytes

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

STORE_SHARE = 0.48
"""Share of the ceiling that the head's inputs of all points may take; else a second pass."""


@dataclass(frozen=True)
class Plan:
    """How a lens will use memory.

    Parameters
    ----------
    store
        Whether the head's inputs of all points are kept for the divergence from the final row;
        if not, a second pass makes them again.
    buffers
        Bytes that the head's buffers may take.
    bytes
        Peak bytes above the model's own, as planned.
    linear
        Whether the divergence needs no second set of logits.
    """

    store: bool
    buffers: int
    bytes: int
    linear: bool


def plan_memory(
    model: LensModel,
    points: int,
    cells: int,
    top_k: int,
    tracked: int,
    limit: int,
    *,
    ways: int = 1,
    maps: int = 0,
) -> Plan:
    """Decide what is kept and how large the chunks are.

    Parameters
    ----------
    points
        Rows of one lens without the final one.
    cells
        Positions of all texts.
    top_k, tracked
        Predictions and tracked tokens kept in each cell.
    limit
        Bytes.
    ways
        In how many ways each point is decoded, which are compared with each other.
    maps
        Bytes of what was fitted, and of products with it.

    Raises
    ------
    MemoryLimitError
        When the result alone, or with it the smallest chunk, exceeds the limit.
    """
    matrix = model.head_matrix()
    dtype = torch.float32 if matrix is None else matrix.weight.dtype
    width = model.d_model if matrix is None else matrix.weight.shape[1]
    linear = matrix is not None and not matrix.softcap and dtype in (torch.float32, torch.float64)
    state = cells * width * dtype.itemsize
    result = ways * (points + 1) * cells * (9 * top_k + 9 * tracked + 5 * 5 + 12)
    store = ways * points * state <= STORE_SHARE * limit
    kept = result + (ways * points * state if store else state) + 4 * state + maps
    compare = 0 if linear and ways == 1 else COMPARE_BYTES
    a_row = row_bytes(model.d_vocab, dtype)
    left = int(limit - kept)
    compare = min(compare, left // 2)
    buffers = left - compare
    rows = product_rows(model.d_vocab, a_row, buffers)
    scratch = min(STATISTICS_ROWS, rows) * a_row // 2
    return Plan(store, buffers, kept + compare + rows * a_row // 2 + scratch, linear)
