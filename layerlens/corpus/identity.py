"""Whether two models have the same weights, and how one is made again elsewhere."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch

from layerlens.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from layerlens.model.lensmodel import LensModel

SAMPLES = 64
"""Entries of each parameter that are looked at."""


def fingerprint(model: LensModel) -> str:
    """Hash of names, shapes, types and some evenly spread entries of all parameters.

    Training, edits and rounding to another type change it; it is no proof of equality.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in model.hf.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        if not parameter.is_meta:
            flat = parameter.detach().flatten()
            step = max(1, len(flat) // SAMPLES)
            digest.update(flat[::step].to("cpu", torch.float64).numpy().tobytes())
    return digest.hexdigest()


def settings_of(model: LensModel) -> dict[str, Any]:
    """What identifies a model, fit for JSON."""
    return {
        "model": model.name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "weights": fingerprint(model),
    }


def parts_of(model: LensModel) -> tuple[Any, Any, dict[str, Tensor]]:
    """Class, config and parameters of a model in memory, to build it again in another process.

    Raises
    ------
    InputError
        When its parameters are not all plain tensors in one place.
    """
    hf: Any = model.hf
    spread = len(set(getattr(hf, "hf_device_map", None) or {None: 0})) > 1
    if getattr(hf, "is_quantized", False) or spread or any(p.is_meta for p in hf.parameters()):
        raise InputError(
            "This model was given to ll.load in memory and is quantised or spread over devices, "
            "so workers cannot build it again: load it by its name or folder, or leave workers out."
        )
    state = {name: p.detach().cpu() for name, p in hf.named_parameters()}
    persistent = hf.state_dict().keys()
    state |= {name: b.detach().cpu() for name, b in hf.named_buffers() if name in persistent}
    return type(hf), hf.config, state


def build(kind: Any, config: Any, state: dict[str, Tensor], dtype: torch.dtype) -> Any:
    """Build a model from what :func:`parts_of` gave."""
    hf = kind(config).to(dtype)
    hf.load_state_dict(state, strict=False)
    hf.tie_weights()
    return hf.eval()
