"""The page of a feature: from a result, frozen, as a figure, and live, where it steers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import layerlens as ll
from layerlens.errors import InputError, ResultError
from layerlens.export.pack import unpack
from layerlens.export.twins import traits_of
from layerlens.figures.feature import feature_figure
from layerlens.model.lensmodel import LensModel
from layerlens.result.fitted import Fitted
from layerlens.views import FeatureView, view_of
from tests.unit.analyses.features.made import planted_words

from .tiny import ask

TEXTS = ["cat dog owl fox cat dog owl", "owl pig owl", "dog hen owl"]
SMALL = {"k": 2, "bands": 2, "per_band": 1, "around": 2, "new_tokens": 2, "strengths": [1]}


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load("toy:induction")


@pytest.fixture(scope="module")
def sae(model: LensModel) -> Fitted:
    return planted_words(model)


@pytest.fixture(scope="module")
def page(model: LensModel, sae: Fitted) -> ll.Result:
    return ll.feature(model, TEXTS, sae, 1, **SMALL)


@pytest.fixture(autouse=True)
def built(front_end: None) -> None:
    """Views need what is built."""


def test_it_opens_in_its_own_view_and_from_a_file(page: ll.Result, tmp_path: Path) -> None:
    again = ll.open(page.save(tmp_path / "page.nc"))
    assert isinstance(again, ll.Result)
    view = view_of(again)
    assert isinstance(view, FeatureView) and not view.live
    assert view.meta["feature"] == {
        "number": 1, "site": "resid_pre", "layers": [0], "groups": [0, 0, 1, 2],
        "strengths": [1.0],
    }  # fmt: skip
    assert repr(view) == "FeatureView(number=1, model='toy:induction')"
    assert unpack(view.snapshot)[0]["feature"] == view.meta["feature"]
    traits = traits_of(again.data, again.checks)
    assert (traits["view"], traits["strength"], traits["meanings"]) == ("feature", 1.0, {})


def test_live_it_steers_by_any_strength_and_goes_to_another_feature(
    model: LensModel, sae: Fitted
) -> None:
    view = FeatureView(model, TEXTS, sae, 1, **SMALL)
    found = view.wait(60)
    assert found is not None and view.meta["feature"]["number"] == 1
    steered, _ = ask(view, "steer", strength=2.5)
    step = 2.5 * float(found.data.scale) * sae["W_dec"][1]
    ids = found.data.prompt_token.values.tolist()
    written = model.generate(ids, 2, ll.edit("resid_pre.0", "add", step, always=True)).new_ids
    assert [token["text"] for token in steered["texts"][0]["tokens"]] == [
        model.token_string(i) for i in written
    ]
    assert len(steered["texts"]) == 2  # and the other feature's
    listed, _ = ask(view, "cell", rid=2, find=model.token_id("owl"))
    assert listed["tables"][0]["opens"][0] == {"array": "feature", "at": {"feature": 0}}
    view.comm.set(options={**view.options, "number": 0})
    assert view.wait(60).data.attrs["number"] == 0 and view.number == 0
    assert "feature(model" in view.meta["code"]


def test_what_it_means_is_kept_and_written_to_a_file(
    page: ll.Result, model: LensModel, sae: Fitted, tmp_path: Path
) -> None:
    view = FeatureView.from_result(page, meanings={1: "dog", 2: " "})
    assert view.meanings == {"1": "dog"}
    path = view.save_meanings(tmp_path / "meanings.json")
    content = json.loads(path.read_text())
    assert content == {
        "model": "toy:induction", "site": "resid_pre", "layers": [0], "meanings": {"1": "dog"},
    }  # fmt: skip
    assert FeatureView.from_result(page, meanings=path).meanings == {"1": "dog"}
    path.write_text("{}")
    with pytest.raises(InputError, match="holds no meanings"):
        FeatureView(model, TEXTS, sae, meanings=str(path))
    with pytest.raises(InputError, match="numbers of features with words"):
        view.meanings = {"one": "dog"}
    without = FeatureView(model, TEXTS)
    with pytest.raises(InputError, match="sae is none"):
        without.wait(20)
    with pytest.raises(InputError, match="no page yet"):
        without.save_meanings(path)
    with pytest.raises(InputError, match="belongs to one model"):
        FeatureView(model, TEXTS, sae, other=model)


def test_the_figure_draws_the_page(page: ll.Result, model: LensModel) -> None:
    figure = feature_figure(page.data, meaning="the word dog", theme="dark")
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert {"dog", "fox", "by itself", "feature 1"} <= set(words)
    said = [text.get_text() for text in figure.texts]
    assert said[0] == "Means: the word dog" and any("2 of" in one or "On at" in one for one in said)
    lit = [
        text for text in figure.axes[0].texts if text.get_text() == "dog" and text.get_bbox_patch()
    ]
    assert lit and not any(
        text.get_bbox_patch() for text in figure.axes[0].texts if text.get_text() == "fox"
    )
    shares = {"layer_share": ("layer", [0.75, 0.25]), "all_layer_share": ("layer", [0.5, 0.5])}
    two = page.data.assign(shares).assign_coords(layer=[0, 1])
    said = [text.get_text() for text in feature_figure(two).texts]
    assert "Where it is on (all features): layer 0 75% (50%), layer 1 25% (50%)." in said
    assert page._repr_mimebundle_()[0]["image/png"]
    with pytest.raises(ResultError, match=r"not of ll\.feature"):
        feature_figure(ll.logit_lens(model, TEXTS[0]).data)
