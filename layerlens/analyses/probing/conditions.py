"""The same model with other numbers: weights rounded or noisy, another dtype, noise on states."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from layerlens.errors import InputError
from layerlens.model.integers import is_whole
from layerlens.model.lensmodel import LensModel
from layerlens.run.quantise import MOST_BITS, fake_quantise, replaced, require_quantisable

if TYPE_CHECKING:
    pass

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Condition:
    """Under which a probe is fitted and judged once more.

    Attributes
    ----------
    bits, weight_noise, dtype, state_noise
        One of them, the others None; see `layerlens.probe_conditions`.
    """

    bits: int | None = None
    weight_noise: float | None = None
    dtype: str | None = None
    state_noise: float | None = None

    @property
    def name(self) -> str:
        """In words."""
        if self.bits is not None:
            return f"weights of {self.bits} bits"
        if self.weight_noise is not None:
            return f"noise of {self.weight_noise:g} on weights"
        return self.dtype or f"noise of {self.state_noise:g} on states"

    @contextmanager
    def on(self, model: LensModel, seed: int) -> Iterator[LensModel]:
        """The model under this condition, in a ``with`` block; afterwards it is as it was."""
        if self.dtype is not None:
            copied = copy.deepcopy(model.hf)
            # The `to` that accelerate gives a model it has spread refuses, and is the original's.
            nn.Module.to(copied, getattr(torch, self.dtype))
            yield LensModel.wrap(copied, model.tokenizer, name=f"{model.name}, {self.dtype}",
                                 prove=False)  # fmt: skip
            return
        random = torch.Generator().manual_seed(seed)

        def other(weight: Tensor) -> Tensor:
            if self.bits is not None:
                return fake_quantise(weight, self.bits)
            drawn = torch.randn(weight.shape, generator=random).to(weight)
            return weight + (self.weight_noise or 0.0) * weight.float().std().to(weight) * drawn

        with ExitStack() as stack:
            if self.bits is not None or self.weight_noise is not None:
                for layer in range(model.n_layers):
                    stack.enter_context(replaced(model, layer, other))
            yield model

    def blurred(self, states: np.ndarray, seed: int) -> np.ndarray:
        """States ``[n, d]`` with noise as large as a share of each one's root mean square."""
        if not self.state_noise:
            return states
        size = np.sqrt(np.square(states, dtype=np.float64).mean(1, keepdims=True))
        drawn = np.random.default_rng(seed).normal(size=states.shape)
        noisy: np.ndarray = (states + self.state_noise * size * drawn).astype(np.float32)
        return noisy


def conditions_of(
    model: LensModel, bits: Any, weight_noise: Any, dtypes: Any, state_noise: Any
) -> list[Condition]:
    """All conditions that are asked for, in this order.

    Raises
    ------
    InputError
        One is none, there are none, or the weights cannot be changed.
    """
    widths, names = _several(bits), _several(dtypes)
    for width in widths:
        if not is_whole(width) or not 2 <= width <= MOST_BITS:
            raise InputError(f"bits has {width!r}; expected whole numbers from 2 to {MOST_BITS}.")
    for name in names:
        if name not in DTYPES:
            raise InputError(f"dtypes has {name!r}; expected {', '.join(DTYPES)}.")
    noises = [_several(weight_noise), _several(state_noise)]
    for option, given in zip(("weight_noise", "state_noise"), noises, strict=True):
        for size in given:
            if not isinstance(size, int | float) or not 0 < size < float("inf"):
                raise InputError(f"{option} has {size!r}; expected numbers above 0.")
    if widths or noises[0]:
        require_quantisable(model, range(model.n_layers))
    found = [Condition(bits=width) for width in widths]
    found += [Condition(weight_noise=size) for size in noises[0]]
    found += [Condition(dtype=name) for name in names]
    found += [Condition(state_noise=size) for size in noises[1]]
    if not found:
        raise InputError(
            "There is no condition to compare with: give bits, weight_noise, dtypes or state_noise."
        )
    return found


def _several(given: Any) -> Sequence[Any]:
    """One or several values, each once."""
    one = isinstance(given, str | int | float)
    return list(dict.fromkeys([given] if one else given))
