"""Factors that stand behind a projection are part of what heads hand on (LayerScale)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

import layerlens as ll
from layerlens.errors import ModelError

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIG = {"image_size": 8, "patch_size": 4, "num_labels": 3, "intermediate_size": 32, **SIZES}


@pytest.fixture(scope="module")
def pair() -> tuple[ll.LensModel, ll.LensModel]:
    """A model with such factors, and the same function with 1 for each, in its matrices instead."""
    torch.manual_seed(0)
    hf = tf.Dinov2ForImageClassification(tf.Dinov2Config(**CONFIG)).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
        inside = copy.deepcopy(hf)
        for name, module in inside.named_modules():
            if not name.endswith(("layer_scale1", "layer_scale2")):
                continue
            block, (factors,) = inside.get_submodule(name.rpartition(".")[0]), module.parameters()
            part = block.attention if name.endswith("1") else block.mlp
            *_, last = (one for one in part.modules() if isinstance(one, torch.nn.Linear))
            last.weight.mul_(factors[:, None])
            last.bias.mul_(factors)
            factors.fill_(1)
    return ll.load(hf, name="with factors"), ll.load(inside, name="without")


@pytest.mark.parametrize(
    "ask",
    [
        lambda model, given: ll.attention(model, given, weighting=["norm"]),
        lambda model, given: ll.token_attribution(model, given, method="norm"),
        lambda model, given: ll.token_attribution(model, given, method="alti"),
    ],
    ids=["attention", "norm", "alti"],
)
def test_both_ways_to_write_the_model_have_the_same_answer(
    pair: tuple[ll.LensModel, ll.LensModel], ask: Callable[..., Any]
) -> None:
    given = ll.images([np.random.default_rng(0).standard_normal((3, 8, 8)).astype("float32")])
    logits = [ll.run(model, given).logits for model in pair]
    torch.testing.assert_close(*logits)
    one, other = (ask(model, given) for model in pair)
    assert one.checks.ok
    for name, found in one.data.data_vars.items():
        if found.dtype.kind == "f":
            np.testing.assert_allclose(found, other.data[name], atol=1e-5, err_msg=str(name))


def test_a_head_that_reads_two_states_has_no_tokens_of_neurons(
    pair: tuple[ll.LensModel, ll.LensModel],
) -> None:
    with pytest.raises(ModelError, match="reads 32 numbers, made of several states of 16"):
        ll.neuron_tokens(pair[0], ["LABEL_0"], k=2)
