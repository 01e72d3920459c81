"""The same model before training: what its architecture alone lets a probe read."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from layerlens.errors import LayerLensError, ModelError
from layerlens.model.lensmodel import LensModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def untrained(model: LensModel, seed: int) -> LensModel:
    """Build a model of the same configuration with weights as its family draws them.

    Parameters
    ----------
    seed
        Of the draw; the state of torch's generator is left as it was.

    Raises
    ------
    ModelError
        It cannot be built from its configuration (quantised, or with an adapter).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            made: nn.Module = type(model.hf)(copy.deepcopy(model.hf.config))
            hf = cast("PreTrainedModel", made.to(model.device, model.dtype).eval())
            name = f"{model.name}, untrained"
            return LensModel.wrap(hf, model.tokenizer, name=name, prove=False)
        except (LayerLensError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"{model.name} cannot be built anew from its configuration, so there is no "
                f"untrained one to compare with ({error}): give untrained=False."
            ) from error
