"""What an analysis learns: kept, stopped, saved, opened, and used by another."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.contract import registry
from layerlens.analyses.contract.contract import Analysis, Job, Variable, Work, analysis
from layerlens.analyses.contract.learning import fitted_of, require_readable_again
from layerlens.analyses.contract.listeners import Silent
from layerlens.errors import Cancelled, InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.sites import Site
from layerlens.run.forward import forward

TEXTS = [[5, 9, 5, 3], [7, 1, 4], [8, 8, 2, 6, 3], [4, 9]]
PER_LAYER = {"distance": Variable(("layer",), "float32", "1", "distance from the mean")}


def states(model: LensModel, tokens: Any) -> dict[int, torch.Tensor]:
    found: dict[int, torch.Tensor] = {}

    def keep(site: Site, value: torch.Tensor) -> None:
        found[site.block] = value[torch.as_tensor(tokens.mask)].mean(0)

    sites = [Site("resid_post", layer) for layer in range(model.n_layers)]
    forward(model, tokens, sites, keep, logits=None)
    return found


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> tuple[Analysis, Analysis]:
    """One analysis that learns the mean state of each layer, and one that uses it."""
    registry.names()
    monkeypatch.setattr(registry, "_ANALYSES", dict(registry._ANALYSES))
    common: dict[str, Any] = {
        "source": "made up",
        "cost": "1 pass",
        "view": "curves",
        "variables": PER_LAYER,
        "work": lambda model, tokens, **_: Work(1, 0, 1),
        "pooled": True,
    }

    @analysis(name="learn_means", question="What is common?", learns="means", **common)
    def learn_means(
        job: Job, model: Any, tokens: Any, *, fail_at: int = 99, error: Any = KeyboardInterrupt
    ) -> None:
        """Learn the mean state of each layer."""
        job.declare({"layer": model.n_layers}, {})
        for layer, mean in states(model, tokens).items():
            if layer == fail_at:
                raise error
            job.learned({f"mean.{layer}": mean}, {"train": {f"norm.{layer}": float(mean.norm())}})
            job.emit({"layer": layer}, {"distance": np.float32(0)})
        job.check("finite", 0, 0, "made up")

    @analysis(name="use_means", question="How far from it?", **common)
    def use_means(job: Job, model: Any, tokens: Any, *, means: Any = None) -> None:
        """Measure the distance from the means."""
        means.require(model, "means")
        job.declare({"layer": model.n_layers}, {})
        for layer, state in states(model, tokens).items():
            distance = (state - means[f"mean.{layer}"]).norm()
            job.emit({"layer": layer}, {"distance": distance.numpy()})

    return learn_means, use_means


def test_learned_here_and_used_there(
    pair: tuple[Analysis, Analysis], gpt2: LensModel, tmp_path: Path
) -> None:
    learn, use = pair
    means = learn(gpt2, TEXTS)
    assert isinstance(means, ll.Fitted)
    expected = states(gpt2, gpt2.tokens(TEXTS))
    for layer, mean in expected.items():
        torch.testing.assert_close(means[f"mean.{layer}"], mean)
        assert means.scores["train"][f"norm.{layer}"] == float(mean.norm())
    assert use(gpt2, TEXTS, means=means).data.distance.values.max() < 1e-5
    path = means.save(tmp_path / "means.safetensors")
    opened = ll.open(path)
    assert opened.identical(means)
    result = use(gpt2, TEXTS, means=opened)
    assert result.code == f"ll.use_means(model, {TEXTS!r}, means=ll.open({str(path)!r}))"
    again = f"ll.use_means(model, {TEXTS!r}, means=ll.learn_means(model, {TEXTS!r}))"
    assert use(gpt2, TEXTS, means=means).code == again


def test_it_says_where_it_comes_from(pair: tuple[Analysis, Analysis], gpt2: LensModel) -> None:
    means = pair[0](gpt2, TEXTS)
    assert means.code == f"ll.learn_means(model, {TEXTS!r})"
    assert (means.kind, means.complete, means.checks.ok) == ("means", True, True)
    assert means.versions["torch"] == torch.__version__
    assert means.data == pair[0](gpt2, TEXTS).data
    assert means.data != pair[0](gpt2, TEXTS[:3]).data
    assert "means of tiny gpt2 (gpt2, float32)" in repr(means)
    assert "mean.0 [24] float32" in repr(means)
    assert "<th>train</th>" in means._repr_html_()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("broken")])
def test_what_was_learned_by_then_outlives_a_stop_and_an_error(
    pair: tuple[Analysis, Analysis], gpt2: LensModel, error: BaseException
) -> None:
    with pytest.raises((Cancelled, ValueError)) as caught:
        pair[0](gpt2, TEXTS, fail_at=2, error=error)
    fitted = caught.value.partial.fitted  # type: ignore[union-attr]
    assert list(fitted) == ["mean.0", "mean.1"]
    assert not fitted.complete
    assert "stopped before its end" in repr(fitted)


def test_another_model_is_refused_in_words(
    pair: tuple[Analysis, Analysis], gpt2: LensModel
) -> None:
    means = pair[0](gpt2, TEXTS)
    means.require(LensModel.wrap(copy.deepcopy(gpt2.hf), None, name="the same", prove=False))
    with torch.no_grad():
        gpt2.hf.get_submodule("transformer.h.1.mlp.c_fc").weight.add_(1e-3)
    with pytest.raises(InputError, match=r"was fitted on tiny gpt2 .* has other weights"):
        means.require(gpt2)
    with pytest.raises(InputError, match="A probe is needed, but this is a means"):
        means.require(gpt2, "probe")
    other = LensModel.wrap(copy.deepcopy(gpt2.hf).double(), None, name="wide", prove=False)
    with pytest.raises(InputError, match="wide is in float64, not float32"):
        means.require(other)


def test_an_analysis_that_learned_nothing_is_an_error(
    pair: tuple[Analysis, Analysis], gpt2: LensModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpt2.anatomy.__class__, "n_layers", 0)
    with pytest.raises(RuntimeError, match=r"without job\.learned"):
        pair[0](gpt2, TEXTS)


def test_what_is_learned_from_is_the_same_as_a_list_and_as_a_corpus(gpt2: LensModel) -> None:
    job = Job({}, Silent(), batched=False, model=gpt2, fed={})
    job.learned({"a": np.zeros(1)})
    found = [
        fitted_of("x", job, gpt2, {"text": fed}, options={}, code="", ended=True)
        for fed in (gpt2.tokens(TEXTS), ll.texts(TEXTS), ll.texts(TEXTS[:3]))
    ]
    datas = [one.data for one in found if one is not None]
    assert datas[0] == datas[1] != datas[2]


def test_an_option_can_say_what_kind_is_learned(
    pair: tuple[Analysis, Analysis], gpt2: LensModel
) -> None:
    pair[0].learns = lambda options: f"means_until_{options['fail_at']}"
    assert pair[0](gpt2, TEXTS, fail_at=50).kind == "means_until_50"


def test_texts_that_can_be_read_once_are_refused() -> None:
    require_readable_again({"text": ll.texts(TEXTS)})
    with pytest.raises(InputError, match="which can be read only once"):
        require_readable_again({"text": ll.texts(iter(TEXTS))})
