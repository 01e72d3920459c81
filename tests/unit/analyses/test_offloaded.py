"""A model of which parts are on a disk answers every analysis as it does in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.contract import registry
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.result.fitted import Fitted

from .conftest import build
from .small_calls import NAMES, ONE, arguments

CPU = torch.device("cpu")
SLOW = ("attention_probe", "causal_trace", "chain_of_layers", "feature", "frequency_tags")
SLOW += ("layer_mix", "neuron_path", "out_of_distribution", "probe")
"""Many passes or long fits, of a kind that others make too."""
CHANGED = ("delta_signs", "mode_connectivity")
"""Small calls that change all weights of a model at once, which has to be in memory for that."""
READ = ("bigram_layers", "checkpoint_difference", "clamp", "composition", "head_channels")
READ += ("logit_lens", "mlp_decomposition", "neuron", "neuron_modules", "neuron_tokens")
READ += ("probe_conditions", "quantisation_sensitivity", "sparse_layers", "sparse_split")
READ += ("spectrum", "token_dispositions")
"""Those that read weights: they, and those that record gradients, are held to the whole model."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("offloaded")


@pytest.fixture(scope="module")
def whole() -> LensModel:
    return build("llama")


@pytest.fixture(scope="module")
def spread(folder: Path) -> LensModel:
    """The first block and the embedding in memory, what follows on the disk."""
    model = build("llama")
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu"}
    places |= dict.fromkeys(("model.layers.1", "model.layers.2", "model.norm"), "disk")
    accelerate.dispatch_model(
        model.hf, {**places, "lm_head": "disk"}, CPU, offload_dir=folder, force_hooks=True
    )
    assert model.hf.lm_head.weight.is_meta
    return model


def answer(name: str, model: LensModel) -> Any:
    texts, options = arguments(name, model)
    return registry.get(name)(model, *texts, **options)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SLOW + CHANGED])
def test_an_offloaded_model_answers_alike(name: str, whole: LensModel, spread: LensModel) -> None:
    mine = answer(name, spread)
    assert [check for check in mine.checks if not check.ok] == []
    assert all(p.is_meta for p in spread.hf.model.layers[1].parameters())
    if "gradients" not in registry.get(name).needs and name not in READ:
        return
    theirs = answer(name, whole)
    if isinstance(mine, Fitted):
        for array in mine:
            close(mine[array], theirs[array])
        return
    for variable in theirs.data:
        close(mine.data[variable].values, theirs.data[variable].values)


def test_what_needs_all_weights_at_once_says_so(spread: LensModel, whole: LensModel) -> None:
    with pytest.raises(InputError, match="quantised or not in memory: load it in"):
        ll.mode_connectivity(spread, [ONE], other=whole, points=3)


def close(mine: Any, theirs: Any) -> None:
    mine, theirs = np.asarray(mine), np.asarray(theirs)
    if theirs.dtype.kind == "f":
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)
    else:
        np.testing.assert_array_equal(mine, theirs)
