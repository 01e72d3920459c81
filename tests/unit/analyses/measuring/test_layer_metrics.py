"""``ll.layer_metrics``: its result, how it grows while the model runs, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import layerlens as ll
from layerlens.analyses.contract.listeners import Silent
from layerlens.errors import Cancelled, InputError, SiteError
from layerlens.metrics.batch import split
from layerlens.metrics.collection import MetricSet
from layerlens.metrics.runner import run_metrics
from layerlens.model.lensmodel import LensModel

TEXTS = [[5, 6, 7, 8, 9, 11], [3, 4, 5], [9, 8, 7, 6, 5, 4, 3]]


class Hearing(Silent):
    """Keeps what is pushed."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.heard: list[tuple[dict[str, Any], dict[str, np.ndarray]]] = []
        self.noted: dict[str, Any] = {}
        self.last = (0, 0)
        self._stop_after = stop_after

    def on_note(self, notes: Mapping[str, Any]) -> None:
        self.noted |= notes

    def on_emit(self, where: Any, arrays: Mapping[str, np.ndarray]) -> None:
        self.heard.append((dict(where), {name: np.copy(array) for name, array in arrays.items()}))

    def on_progress(self, done: int, total: int, what: str) -> None:
        self.last = (done, total)

    def cancelled(self) -> bool:
        return len(self.heard) >= self._stop_after


def test_the_result_is_what_the_metrics_say(model: LensModel) -> None:
    names = ["residual_norm", "block_influence", "angular_distance"]
    result = ll.layer_metrics(model, TEXTS, names)
    metrics = MetricSet.make(model, names)
    run_metrics(model, split(model.tokens(TEXTS)), metrics)
    for name, array in metrics.values().items():
        np.testing.assert_array_equal(result.data[name].values, array)
    assert result.checks.ok
    data = result.data
    assert data["residual_norm"].dims == ("point",)
    assert data["point"].values.tolist() == ["embed", "0_post", "1_post", "2_post"]
    assert data["point_layer"].values.tolist() == [-1, 0, 1, 2]
    assert data["block_influence"].dims == ("layer",)
    assert data["angular_distance"].dims == ("point", "point_other")
    for name in names:
        assert {"units", "long_name", "source", "formula"} <= data[name].attrs.keys()
    assert "batch" not in data.dims
    assert (data.attrs["texts"], data.attrs["tokens"]) == (3, 16)
    assert (data.attrs["tokens_counted"], data.attrs["skip_first"]) == (13, 1)
    assert data.attrs["passes"] == 1
    assert data.attrs["complete"] == 1


def test_it_grows_with_layers_and_texts(model: LensModel) -> None:
    hearing = Hearing()
    options = {"metrics": ["residual_norm", "block_ratio"], "batch_size": 1}
    result = ll.layer_metrics.run(model, TEXTS, options, hearing)
    layers = [where["layer"] for where, _ in hearing.heard if "layer" in where]
    assert layers == [0, 1, 2] * 3
    points = [where["point"] for where, _ in hearing.heard if "point" in where]
    assert points == [0, 1, 2, 3] * 3
    first = ll.layer_metrics(model, TEXTS[0], "block_ratio").data["block_ratio"].values
    shown = [float(arrays["block_ratio"]) for where, arrays in hearing.heard if "layer" in where]
    np.testing.assert_allclose(shown[:3], first)
    np.testing.assert_array_equal(shown[-3:], result.data["block_ratio"])
    assert hearing.last == (9, 9)
    assert json.loads(hearing.noted["metrics"]) == options["metrics"]


def test_the_default_set_is_left_out_where_it_cannot_be(model: LensModel) -> None:
    result = ll.layer_metrics(model, TEXTS[0])
    assert {"residual_norm", "block_ratio", "angular_distance"} <= set(result.data.data_vars)
    assert np.isnan(result.data["block_ratio_low"]).all()
    from layerlens.model.tiny import tiny_model

    mamba = LensModel.wrap(tiny_model("mamba", seed=1), None, name="mamba", prove=False)
    result = ll.layer_metrics(mamba, [1, 2, 3])
    assert "mlp_ratio" not in result.data
    assert "mlp_ratio was left out" in result.data.attrs["notes"]
    with pytest.raises(SiteError, match="one sublayer only"):
        ll.layer_metrics(mamba, [1, 2, 3], "mlp_ratio")


def test_stopped_keeps_what_is_finished(gpt2: LensModel) -> None:
    options = {"metrics": ["block_ratio"], "batch_size": 1}
    with pytest.raises(Cancelled) as stopped:
        ll.layer_metrics.run(gpt2, TEXTS, options, Hearing(stop_after=2))
    partial = stopped.value.partial
    assert isinstance(partial, ll.Result)
    assert np.isfinite(partial.data["block_ratio"].values).tolist() == [True, True, False]


def test_options_reach_their_metric(gpt2: LensModel) -> None:
    how = {"metric_options": {"angular_distance": {"token": "last"}}}
    last = ll.layer_metrics(gpt2, TEXTS, ["angular_distance"], **how)
    every = ll.layer_metrics(gpt2, TEXTS, metrics=["angular_distance"])
    assert not np.allclose(last.data["angular_distance"], every.data["angular_distance"])
    assert "metric_options={'angular_distance': {'token': 'last'}}" in last.code
    again = eval(last.code, {"ll": ll, "model": gpt2})
    np.testing.assert_array_equal(again.data["angular_distance"], last.data["angular_distance"])


def test_what_does_not_fit(gpt2: LensModel) -> None:
    with pytest.raises(InputError, match="did you mean 'block_ratio'"):
        ll.layer_metrics(gpt2, TEXTS, ["blok_ratio"])
    with pytest.raises(InputError, match=r"call ll\.logit_lens"):
        ll.layer_metrics(gpt2, TEXTS, ["logit_lens"])
    with pytest.raises(InputError, match="No token counts: the longest text has 1"):
        ll.layer_metrics(gpt2, [[3], [4]], "block_ratio")
    with pytest.raises(InputError, match="skip_first is -1"):
        ll.layer_metrics(gpt2, TEXTS, "block_ratio", skip_first=-1)
    with pytest.raises(InputError, match="each once"):
        ll.layer_metrics(gpt2, TEXTS, "block_ratio", metrics="voids")
    with pytest.raises(InputError, match="each once"):
        ll.layer_metrics(gpt2, TEXTS, "block_ratio", 3)


def test_saved_and_opened(gpt2: LensModel, tmp_path: Any) -> None:
    result = ll.layer_metrics(gpt2, TEXTS, ["massive_activations", "variance_growth"])
    again = ll.open(result.save(tmp_path / "a.nc"))
    for name in result.data.data_vars:
        np.testing.assert_array_equal(again.data[name], result.data[name])
    assert result.figure() is not None
    assert ll.estimate("layer_metrics", gpt2, TEXTS).passes == 1
