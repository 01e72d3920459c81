"""Along a training: the same as each run asked by itself, streamed, stopped, refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.contract.listeners import Silent
from layerlens.errors import Cancelled, InputError
from layerlens.model.runs import Runs
from layerlens.result import Result

from ..by_hooks import IDS, OTHER, wrapped


@pytest.fixture(scope="module")
def runs() -> Runs:
    """Three moments of one model, of which each is further from the first."""
    found = {}
    for step in (0, 10, 200):
        model = wrapped("gpt2")
        noise = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for weight in model.hf.parameters():
                weight += 1e-3 * step**0.5 * torch.randn(weight.shape, generator=noise)
        found[step] = model
    return Runs(found)


@pytest.mark.parametrize(
    ("ask", "texts", "options"),
    [
        ("logit_lens", IDS, {"top_k": 2}),
        ("logit_lens", [IDS, OTHER], {"top_k": 2}),
        ("ablate_sweep", IDS, {"how": "zero", "verify": 0}),
        ("patch_sweep", {"clean": IDS, "corrupt": OTHER}, {"verify": 0}),
        (ll.layer_metrics, [IDS, OTHER], {"metrics": ["block_influence", "cka"]}),
        ("spectrum", None, {"matrix": "o.1"}),
    ],
)
def test_each_run_is_as_asked_by_itself(
    runs: Runs, ask: Any, texts: Any, options: dict[str, Any]
) -> None:
    if ask == "spectrum":  # its bins lie elsewhere for other weights
        with pytest.raises(InputError, match="axis eigenvalue of spectrum is not the same at run"):
            ll.series(runs, ask, texts, options=options)
        return
    found = ll.series(runs, ask, texts, options=options)
    analysis = getattr(ll, ask) if isinstance(ask, str) else ask
    for place, step in enumerate(runs.labels):
        given = texts if isinstance(texts, dict) else {analysis.inputs[0]: texts}
        alone = analysis(runs.model(place), **given, **options)
        at = found.data.sel(run=step)
        assert set(at.data_vars) == set(alone.data.data_vars)
        for name, array in alone.data.data_vars.items():
            assert at[name].dims == array.dims
            np.testing.assert_array_equal(at[name].values, array.values)
            assert at[name].attrs["long_name"] == array.attrs["long_name"]
    assert found.checks.ok
    assert {check.name for check in found.checks} == {check.name for check in alone.checks}
    assert found.data.attrs["complete"]
    assert found.data.attrs["passes"] == pytest.approx(
        3 * float(alone.data.attrs["passes"]), nan_ok=True
    )


def test_a_metric_is_asked_by_its_name(runs: Runs) -> None:
    found = ll.series(runs, "block_influence", IDS)
    alone = ll.layer_metrics(runs.model(2), IDS, ["block_influence"])
    assert np.array_equal(found.data.block_influence.sel(run=200), alone.data.block_influence)
    assert found.code == f"ll.series(model, ask='block_influence', texts={IDS})"


def test_the_worst_check_of_all_runs_is_kept(runs: Runs) -> None:
    found = ll.series(runs, "logit_lens", IDS)
    name = "final row is the model's"
    errors = {
        step: check.error
        for place, step in enumerate(runs.labels)
        for check in ll.logit_lens(runs.model(place), IDS).checks
        if check.name == name
    }
    (kept,) = [check for check in found.checks if check.name == name]
    assert kept.error == max(errors.values())
    assert f"at run {max(errors, key=lambda step: errors[step])}" in kept.what


class StopAfter(Silent):
    """Stops as soon as something of the second run came."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_emit(self, where: Any, arrays: Any) -> None:
        self.seen.append(where["run"])

    def cancelled(self) -> bool:
        return 1 in self.seen


def test_what_was_stopped_keeps_the_runs_that_were_finished(runs: Runs) -> None:
    heard = StopAfter()
    with pytest.raises(Cancelled) as stopped:
        ll.series.run(runs, {}, {"ask": "logit_lens", "texts": IDS}, heard)
    partial: Result = stopped.value.partial
    entropy = partial.data.entropy
    assert np.isfinite(entropy.sel(run=0)).all()
    assert np.isnan(entropy.sel(run=200)).all()
    assert not partial.data.attrs["complete"]
    assert heard.seen == sorted(heard.seen)


def test_an_estimate_counts_every_run(runs: Runs) -> None:
    one = ll.estimate("ablate_sweep", runs.model(0), IDS)
    every = ll.estimate("series", runs, "ablate_sweep", IDS)
    assert every.passes == 3 * one.passes
    assert every.tokens == one.tokens
    assert every.bytes == one.bytes
    assert every.seconds > 0


def test_a_slider_goes_through_steps_that_are_numbers(runs: Runs) -> None:
    from layerlens.export.answer_meta import answer_meta_of

    found = ll.series(runs, "logit_lens", IDS)
    (dose,) = answer_meta_of(found.data)["doses"]
    assert (dose["dim"], dose["values"]) == ("run", [0, 10, 200])
    named = Runs({"before": runs.model(0), "after": runs.model(2)})
    assert answer_meta_of(ll.series(named, "logit_lens", IDS).data)["doses"] == []


def test_it_is_shown_live_and_saved(runs: Runs, tmp_path: Any) -> None:
    view = ll.GridView(runs, "series", ask="ablate_sweep", texts=IDS)
    found = view.wait()
    assert found.data.effect.dims == ("run", "layer", "head")
    assert view.meta["axes"]["run"]["labels"] == ["0", "10", "200"]
    found.save(tmp_path / "series.nc")
    assert ll.open(tmp_path / "series.nc").data.equals(found.data)
    view.close()


def test_notes_of_the_runs_are_kept(runs: Runs) -> None:
    found = ll.series(runs, "layer_metrics", [IDS], options={"metrics": ["cka"]})
    alone = ll.layer_metrics(runs.model(0), [IDS], ["cka"])
    assert json.loads(found.data.attrs["notes"]) == json.loads(alone.data.attrs["notes"])


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "needs what to ask"),
        ({"ask": "logit_lense"}, "did you mean 'logit_lens'"),
        ({"ask": "information_plane"}, "takes ll.Runs by itself"),
        ({"ask": "series"}, "takes ll.Runs by itself"),
        ({"ask": "logit_lens"}, "needs text: give texts"),
        ({"ask": "head_scores", "texts": IDS}, "takes no text"),
        ({"ask": "patch_sweep", "texts": IDS}, "compares texts: give texts={'clean': ..."),
        ({"ask": "logit_lens", "texts": IDS, "options": {"topk": 2}}, "did you mean 'top_k'"),
        ({"ask": "generation_lens", "texts": IDS, "options": {"max_new_tokens": 2}}, "ask each"),
    ],
)
def test_what_does_not_fit_is_refused(runs: Runs, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        ll.series(runs, **asked)


def test_torch_networks_are_refused() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"models from ll\.load"):
        ll.series(Runs(network), "logit_lens", IDS)
