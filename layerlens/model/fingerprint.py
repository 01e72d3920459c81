"""Whether two models have the same weights, two calls the same tokens: told by a short hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

SAMPLES = 64
"""Entries of each parameter that are looked at."""


def fingerprint(model: LensModel) -> str:
    """Hash of names, shapes, types and some evenly spread entries of all parameters.

    Loading the same weights again keeps it; training, edits and rounding to another type change
    it. It is no proof of equality, and cheap however large the model.
    """
    return fingerprint_of_arrays(model.hf.named_parameters())


def fingerprint_of_arrays(arrays: Iterable[tuple[str, Tensor]]) -> str:
    """Hash of names, shapes, types and some evenly spread entries of tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for name, array in arrays:
        digest.update(f"{name} {tuple(array.shape)} {array.dtype}".encode())
        if not array.is_meta:
            flat = array.detach().flatten()
            step = max(1, len(flat) // SAMPLES)
            digest.update(flat[::step].to("cpu", torch.float64).numpy().tobytes())
    return digest.hexdigest()


def fingerprint_of_rows(rows: Iterable[Sequence[int]]) -> str:
    """Hash of rows of token ids, in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(np.array([len(row), *row], dtype="<i8").tobytes())
    return digest.hexdigest()
