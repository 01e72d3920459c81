"""Tiny random models of the families that the sweeps are tested on."""

from __future__ import annotations

from functools import cache

from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

#: Family -> the way of running many cells that it allows.
METHODS = {
    "llama": "packed",
    "gpt2": "packed",
    "gpt_neox": "packed",
    "gemma2": "packed",
    "gemma3_text": "packed",
    "mixtral": "packed",
    "opt": "packed",
    "cohere": "packed",
    "gpt_oss": "packed",
    "bloom": "restart",
    "mamba": "restart",
}


@cache
def tiny(family: str) -> LensModel:
    """One model a family, shared by the tests, which leave it as it was."""
    return LensModel.wrap(tiny_model(family, seed=1), None, name=f"tiny {family}", prove=False)
