"""Lens, metrics, attention and patching together: one layer, position and prompt, no echo."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ipywidgets import Tab, Widget

import layerlens as ll
from layerlens.analyses.contract.registry import get
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model
from layerlens.views import AttentionView, LensView, MetricsView, PatchView
from layerlens.views.explore import Explore
from layerlens.views.question import QuestionView

from .fakes import until
from .tiny import CLEAN, CORRUPT, N_LAYERS, tiny_llama


@pytest.fixture
def model() -> LensModel:
    return tiny_llama()


@pytest.fixture
def both(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Explore]:
    monkeypatch.setattr(LensView, "analysis", get("logit_lens"))
    found = ll.explore(model, CLEAN, CORRUPT)
    for view in (found.lens, found.metrics, found.attention, found.patching):
        view.wait(20)
    until(lambda: found.lens.layer == N_LAYERS and found.lens.row > 0)
    yield found
    found.close()


def layers(both: Explore) -> list[int]:
    views = (both.lens, both.metrics, both.attention, both.patching)
    return [both.layer, *(view.layer for view in views)]


def sent(widget: Widget, name: str) -> list[Any]:
    return widget.comm.updates(name)  # type: ignore[no-any-return]


def test_it_is_made_of_the_views(both: Explore) -> None:
    assert isinstance(both.lens, LensView)
    assert isinstance(both.metrics, MetricsView)
    assert isinstance(both.patching, PatchView)
    assert isinstance(both.attention, AttentionView)
    assert both.children[1].titles == ("Metrics", "Attention", "Patching")
    assert both.attention.result is not None
    assert both.lens.result is not None
    assert both.metrics.result is not None
    assert both.patching.result is not None
    assert both.children[0] is both.lens
    assert isinstance(both.children[1], Tab)
    assert both.lens.linked
    assert both.patching.linked
    assert layers(both) == [N_LAYERS] * 5


def test_one_layer_and_one_position_from_python(both: Explore) -> None:
    both.layer = 1
    assert layers(both) == [1] * 5
    both.patching.layer = 3
    assert layers(both) == [3] * 5
    both.lens.row = 0
    assert layers(both) == [-1] * 5
    both.metrics.layer = N_LAYERS
    assert layers(both) == [N_LAYERS] * 5
    both.patching.position = 2
    assert both.lens.position == both.metrics.position == both.attention.query == 2
    both.attention.query = 1
    assert both.lens.position == both.patching.position == 1
    assert sent(both.metrics, "layer")[-4:] == [1, 3, -1, N_LAYERS]


def test_what_comes_from_the_browser_is_not_sent_back(both: Explore) -> None:
    """The browser has linked the widgets itself; an echo would undo what was done meanwhile."""
    others = (both.metrics, both.attention, both.patching)
    before = [len(view.comm.sent) for view in others]
    for layer in (0, 1, 2, 3):
        both.lens.comm.set(layer=layer)
        assert layers(both) == [layer] * 5
    assert [len(view.comm.sent) for view in others] == before  # no layer, no echo of one
    # The messages of the others, whom the browser has told the same, change nothing more.
    before = len(both.lens.comm.sent)
    both.metrics.comm.set(layer=3)
    assert layers(both) == [3] * 5
    # One that comes late moves all, and the row in the kernel; the page has its own already.
    both.patching.comm.set(layer=1)
    assert layers(both) == [1] * 5
    assert both.lens._layers()[both.lens.row] == 1
    assert len(both.lens.comm.sent) == before


def test_one_prompt(both: Explore) -> None:
    both.text = "w5 w6 w7 w8"
    assert both.lens.text == both.metrics.text == both.patching.clean == "w5 w6 w7 w8"
    assert both.attention.text == "w5 w6 w7 w8"
    for view in (both.lens, both.metrics, both.attention, both.patching):
        assert view.wait(20) is not None
    assert both.metrics.result.data.attrs["text"] == "w5 w6 w7 w8"
    assert both.patching.result.data.attrs["clean_text"] == "w5 w6 w7 w8"
    both.lens.comm.set(text="w5 w6")
    assert both.text == both.metrics.text == both.patching.clean == "w5 w6"
    assert both.metrics.wait(20).data.attrs["text"] == "w5 w6"
    assert both.patching.wait(20).data.attrs["clean_text"] == "w5 w6"
    assert len(both.patching.meta["clean_tokens"]) < len(both.patching.meta["corrupt_tokens"])


def test_a_new_picture_moves_nobody(both: Explore) -> None:
    both.layer = N_LAYERS  # the model's output, which is no row of the patch bench
    both.patching.site = "mlp_out"
    both.patching.wait(20)
    both.metrics.metrics = ["residual_norm"]
    both.metrics.wait(20)
    assert layers(both) == [N_LAYERS] * 5


def test_without_a_second_prompt_patching_waits_for_one(model: LensModel) -> None:
    both = ll.explore(model, CLEAN)
    assert both.patching.status["state"] == "idle"
    both.text = "w5 w6 w7"
    assert both.patching.status["state"] == "idle"
    both.patching.corrupt = "w5 w9 w7"
    assert both.patching.wait(20) is not None
    both.close()


def test_options_of_each_view_and_bad_input(model: LensModel) -> None:
    options = {"metrics": {"metrics": ["residual_norm"]}, "lens": {"color": "entropy"}}
    both = ll.explore(model, CLEAN, options=options, theme="dark")
    assert both.metrics.metrics == ["residual_norm"]
    assert both.lens.color == "entropy"
    assert both.patching.theme == "dark"
    both.close()
    with pytest.raises(InputError, match="'lense'"):
        ll.explore(model, CLEAN, options={"lense": {}})
    with pytest.raises(InputError, match="as strings"):
        ll.explore(model, [1, 2])  # type: ignore[arg-type]


def test_a_model_without_attention_has_no_tab_for_it() -> None:
    mamba = LensModel.wrap(tiny_model("mamba", 0), None, name="mamba", prove=False)
    both = Explore(mamba, "1 2 3")
    assert both.attention is None
    assert both.children[1].titles == ("Metrics", "Patching")
    both.close()


def test_any_analysis_is_one_more_tab(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LensView, "analysis", get("logit_lens"))
    options = {"ablate_sweep": {"how": "zero"}, "head_scores": {"length": 8}}
    also = ["ablate_sweep", ll.path_patch, "head_scores"]
    found = ll.explore(model, CLEAN, CORRUPT, also=also, options=options)
    heads, paths, scores = found.also.values()
    assert found.children[1].titles[-3:] == ("Ablate sweep", "Path patch", "Head scores")
    assert heads.inputs == {"text": CLEAN}
    assert heads.options == {"how": "zero"}
    assert paths.inputs == {"clean": CLEAN, "corrupt": CORRUPT}
    assert scores.inputs == {}
    found.layer = 2
    assert {view.layer for view in found.also.values()} == {2}
    heads.position = 1
    assert found.lens.position == 1
    found.text = "w5 w6 w7 w8"
    assert heads.inputs == {"text": "w5 w6 w7 w8"}
    assert paths.inputs["clean"] == "w5 w6 w7 w8"
    result = heads.wait(20)
    assert result is not None
    assert result.data.attrs["text"] == "w5 w6 w7 w8"
    heads.comm.set(text="w9 w8 w7 w6")
    assert heads.inputs == {"text": "w9 w8 w7 w6"}
    assert found.text == "w9 w8 w7 w6"
    found.close()
    with pytest.raises(InputError, match="shows logit_lens already"):
        ll.explore(model, CLEAN, also=["logit_lens"])
    with pytest.raises(InputError, match="corrupt was not given"):
        ll.explore(model, CLEAN, also=["path_patch"])


def test_a_second_side_reaches_every_view_that_can_show_two(
    model: LensModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LensView, "analysis", QuestionView.analysis)
    also = ["ablate_sweep", "path_patch"]
    found = ll.explore(model, CLEAN, CORRUPT, other="w1 w2 w8 w4", also=also)
    assert found.lens.other == found.attention.other == "w1 w2 w8 w4"
    assert found.also["ablate_sweep"].second.label == "w1 w2 w8 w4"
    assert found.metrics.other is None
    assert set(found.alone) == {"patching", "metrics", "path_patch"}
    assert "a second model, not of a text" in found.alone["metrics"]
    assert "compares clean and corrupt already" in found.children[1].value
    result = found.lens.wait(20)
    assert result is not None
    assert result.data.attrs["other_label"] == "w1 w2 w8 w4"
    found.close()
    twin = ll.explore(model, CLEAN, other=model, also=["ablate_sweep"])
    assert twin.metrics.other is model
    assert set(twin.alone) == {"patching"}
    twin.close()
    edited = ll.explore(model, CLEAN, other=[ll.edit("z.1.0", "zero")], also=["ablate_sweep"])
    assert set(edited.alone) == {"patching", "metrics", "attention", "ablate_sweep"}
    assert edited.lens.other_kind == "edits"
    edited.close()
