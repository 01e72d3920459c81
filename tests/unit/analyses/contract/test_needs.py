"""Models that cannot be asked something are refused in one sentence, before anything runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2Model

from layerlens.analyses.contract import registry
from layerlens.analyses.contract.contract import Analysis, Job, Variable, Work, analysis
from layerlens.errors import InputError, ModelError
from layerlens.model.abilities import ABILITIES
from layerlens.model.lensmodel import LensModel
from layerlens.result.fitted import Fitted

from ..small_calls import NAMES, arguments


@pytest.fixture(scope="module")
def headless() -> LensModel:
    config = GPT2Config(
        n_layer=3,
        n_head=2,
        n_embd=24,
        vocab_size=301,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    return LensModel.wrap(GPT2Model(config).eval(), None, name="headless", prove=False)


@pytest.mark.parametrize("name", NAMES)
def test_without_a_head_an_analysis_runs_or_says_that_it_needs_one(
    headless: LensModel, name: str
) -> None:
    asked = registry.get(name)
    texts, options = arguments(name, headless)
    if name == "macro_influence":  # its head is for the losses only
        options = {**options, "output": False}
    if "head" not in asked.needs:
        found = asked(headless, *texts, **options)
        fitted = isinstance(found, Fitted)
        assert found.complete if fitted else found.data.attrs["complete"] == 1
        return
    sentence = f"{name} cannot be asked of headless, which has no language-model head"
    with pytest.raises(ModelError, match=sentence):
        asked(headless, *texts, **options)
    with pytest.raises(ModelError, match=sentence):
        asked.estimate(headless, *texts, **options)


def made(function: Any, **how: Any) -> Analysis:
    return analysis(
        name="made",
        question="Which?",
        source="made up",
        cost="0",
        view="curves",
        variables={"number": Variable((), "float32", "1", "a number")},
        work=lambda model, tokens: Work(0, 0, 0),
        **how,
    )(function)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.names()
    monkeypatch.setattr(registry, "_ANALYSES", dict(registry._ANALYSES))


def recorded(job: Job, model: Any, tokens: Any) -> None:
    """Say whether gradients are recorded."""
    job.declare({}, {})
    job.emit({}, {"number": np.float32(torch.is_grad_enabled())})


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.usefixtures("own")
def test_gradients_are_recorded_where_they_are_asked_for(gpt2: LensModel, gradients: bool) -> None:
    found = made(recorded, gradients=gradients)(gpt2, [1, 2])
    assert bool(found.data.number) is gradients
    assert not torch.is_inference_mode_enabled()


@pytest.mark.usefixtures("own")
def test_a_model_whose_weights_are_elsewhere_has_no_gradients(gpt2: LensModel) -> None:
    gpt2.hf.get_submodule("transformer.h.0.mlp").to("meta")
    with pytest.raises(ModelError, match="made cannot be asked of tiny gpt2, which has weights"):
        made(recorded, gradients=True)(gpt2, [1, 2])


@pytest.mark.usefixtures("own")
def test_an_attention_that_looks_ahead_is_not_causal(gpt2: LensModel) -> None:
    assert ABILITIES["causal"](gpt2) == ""
    assert ABILITIES["attention"](gpt2) == ""
    gpt2.bidirectional = True
    with pytest.raises(ModelError, match="which reads in both directions"):
        made(recorded, needs=("causal",))(gpt2, [1, 2])


@pytest.mark.usefixtures("own")
def test_a_model_of_images_is_not_given_a_text(
    gpt2: LensModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpt2, "feed", replace(gpt2.feed, kind="images"))
    with pytest.raises(InputError, match="tiny gpt2 reads images, but made is for text"):
        made(recorded)(gpt2, [1, 2])
    assert made(recorded, reads=("text", "images"))(gpt2, [1, 2]).data.number == 0
