"""What identifies a model, and how it is made again elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from layerlens.errors import InputError
from layerlens.model.fingerprint import fingerprint

if TYPE_CHECKING:
    from torch import Tensor

    from layerlens.model.lensmodel import LensModel

Packed = tuple[np.ndarray, torch.dtype, tuple[int, ...]]


def settings_of(model: LensModel) -> dict[str, Any]:
    """What identifies a model, fit for JSON."""
    return {
        "model": model.name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "weights": fingerprint(model),
    }


def parts_of(model: LensModel) -> tuple[Any, Any, dict[str, Packed]]:
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
    persistent = hf.state_dict().keys()
    buffers = {name: b for name, b in hf.named_buffers() if name in persistent}
    state = {name: _packed(p) for name, p in {**dict(hf.named_parameters()), **buffers}.items()}
    return type(hf), hf.config, state


def build(kind: Any, config: Any, state: dict[str, Packed], dtype: torch.dtype) -> Any:
    """Build a model from what :func:`parts_of` gave."""
    hf = kind(config).to(dtype)
    hf.load_state_dict({name: _unpacked(*packed) for name, packed in state.items()}, strict=False)
    hf.tie_weights()
    return hf.eval()


def _packed(tensor: Tensor) -> Packed:
    """As bytes, which processes on one machine share, and which NumPy has for every type."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy(), tensor.dtype, tuple(tensor.shape)


def _unpacked(content: np.ndarray, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(content.copy()).view(dtype).view(shape)
