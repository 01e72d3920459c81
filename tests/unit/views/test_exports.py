"""What a view gives away: pictures of what is on screen, and Python that runs as it is."""

from __future__ import annotations

import ast
import io
from typing import Any

import numpy as np
import pandas as pd
import pytest

import layerlens as ll
from layerlens.analyses.contract.registry import get
from layerlens.errors import InputError
from layerlens.views import LensView, MetricsView, PatchView
from layerlens.views.exports import export
from layerlens.views.picture import PictureView

from .fakes import FakeModel
from .tiny import CLEAN, CORRUPT, patch, tiny_llama

TOY = "toy:modular"


@pytest.fixture
def true_lens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LensView, "analysis", get("logit_lens"))


def options_of(view: PictureView, monkeypatch: pytest.MonkeyPatch, **more: Any) -> dict[str, Any]:
    """What the figure of an export is drawn with."""
    from layerlens.result import Result

    found: dict[str, Any] = {}
    figure = Result.figure

    def drawn(result: Result, **options: Any) -> Any:
        found.update(options)
        return figure(result, **options)

    monkeypatch.setattr(Result, "figure", drawn)
    _, _, content = export(view, "svg", **more)
    assert content.startswith(b"<?xml")
    return found


@pytest.mark.usefixtures("true_lens")
def test_a_lens_is_exported_as_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama()
    pins = [{"position": 1, "id": 7}]
    view = LensView(model, "w1 w2", tracked=["w3"], pins=pins, transposed=True, color="tracked")
    view.wait(10)
    view.row, view.position = 3, 0
    found = options_of(view, monkeypatch, dark=True)
    assert found["color"] == "tracked"
    assert found["transposed"] and found["pins"] == pins
    assert (found["selected"], found["theme"]) == ((3, 0), "dark")
    view.theme = "light"
    assert options_of(view, monkeypatch, dark=True)["theme"] == "light"


def test_a_bench_is_exported_with_its_cell_and_its_list(monkeypatch: pytest.MonkeyPatch) -> None:
    edits = [patch(1, 1), {**patch(0, 0), "site": "mlp_out"}, patch(3, 2)]
    view = PatchView(tiny_llama(), CLEAN, CORRUPT, edits=edits)
    view.wait(10)
    view.layer, view.position = 2, 3
    found = options_of(view, monkeypatch)
    assert found["selected"] == (2, 3)
    assert found["listed"] == {1: (1, 1), 3: (3, 2)}
    assert found["theme"] == "light"


def test_measured_layers_are_exported_without_what_is_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    view = MetricsView(tiny_llama(), "w1 w2 w3", ["attn_norm", "mlp_norm"], other=tiny_llama())
    view.wait(10)
    view.hidden, view.overlay, view.layer, view.scale = ["mlp_norm"], False, 2, "log"
    found = options_of(view, monkeypatch)
    assert {"mlp_norm", "other.mlp_norm", "other.attn_norm"} <= set(found["hidden"])
    assert "attn_norm" not in found["hidden"]
    assert (found["layer"], found["scale"]) == (2, "log")


def test_a_run_that_goes_on_is_not_exported_and_a_stopped_one_is(model: FakeModel) -> None:
    model.hold()
    view = LensView(model, "1 2")  # type: ignore[arg-type]
    model.step(9)
    whole = view.wait(3)
    assert whole is not None
    view.text = "3 4"
    model.step(2)
    until_two(view)
    with pytest.raises(InputError, match="run is not done"):
        export(view, "csv")
    view.cancel()
    model.step(9)
    with pytest.raises(ll.Cancelled):
        view.wait(3)
    text = export(view, "csv")[2].decode()
    assert text.count("\n") == 1 + 2 * len(whole.data["point"])
    assert view.partial is not None
    assert str(view.partial.data["input_id"].values[0]) in text


def until_two(view: LensView) -> None:
    from .fakes import until

    until(lambda: view.meta.get("run") == 2)


def run_copied(view: PictureView) -> Any:
    """Run what the button copies, in a namespace of its own; return its last value."""
    whole = view.meta["setup"] + "\n" + view.meta["code"] + "\n"
    *first, last = ast.parse(whole).body
    names: dict[str, Any] = {}
    exec(compile(ast.Module(first, []), "copied", "exec"), names)
    assert isinstance(last, ast.Expr)
    return eval(compile(ast.Expression(last.value), "copied", "eval"), names)


@pytest.mark.usefixtures("true_lens")
def test_copied_python_of_a_lens_runs_as_it_is_and_has_strings() -> None:
    model = ll.load(TOY)
    a, b = (str(model.token_string(i)) for i in (5, 7))
    view = LensView(model, [5, 7], tracked=[5], pins=[{"position": 0, "id": 7}])
    result = view.wait(20)
    assert result is not None
    assert f"tracked=[{a!r}, {b!r}]" in view.meta["code"]
    again = run_copied(view)
    assert np.array_equal(again.data["token_id"], result.data["token_id"])
    assert again.data["tracked"].values.tolist() == [5, 7]


def test_copied_python_of_a_bench_runs_as_it_is() -> None:
    model = ll.load(TOY)
    view = PatchView(model, [5, 7], [5, 9], answer=3)
    result = view.wait(20)
    assert result is not None
    assert f"answer={model.token_string(3)!r}" in view.meta["code"]
    again = run_copied(view)
    assert np.array_equal(again.data["metric"], result.data["metric"])


def test_copied_python_of_two_models_loads_both() -> None:
    view = MetricsView(ll.load(TOY), [5, 7, 9], "residual_norm", other=ll.load(TOY, prove=False))
    view.wait(20)
    assert "other = ll.load('toy:modular', prove=False)" in view.meta["setup"]
    assert run_copied(view).data.attrs["model"] == view.meta["model"]


def test_a_model_in_memory_says_so() -> None:
    view = PatchView(tiny_llama(), CLEAN, CORRUPT)
    view.wait(10)
    assert "tiny was a model in memory" in view.meta["setup"]
    assert view.meta["setup"].endswith("model = ll.load(hf, tokenizer)\n")


def test_a_token_that_no_string_names_stays_an_id() -> None:
    model = tiny_llama()
    assert model.token_named(7) == "w5"
    plain = ll.load(model.hf, name="no tokenizer")
    assert plain.token_named(7) == 7


@pytest.mark.usefixtures("true_lens")
def test_a_long_text_has_a_row_for_each_block_unless_more_is_asked_for() -> None:
    model = ll.load("toy:induction")
    short, long = [5, 7] * 32, [*[5, 7] * 32, 5]
    kinds = {
        name: {str(point).rpartition("_")[2] for point in view.wait(30).data["point"].values}
        for name, view in {
            "short": LensView(model, short),
            "long": LensView(model, long),
            "asked": LensView(model, long, points=("embed", "mid", "post")),
        }.items()
    }
    assert kinds["short"] == kinds["asked"] == {"embed", "mid", "post", "final"}
    assert kinds["long"] == {"embed", "post", "final"}


@pytest.mark.usefixtures("true_lens")
def test_the_table_of_a_lens_says_what_is_selected_and_pinned() -> None:
    pins = [{"position": 1, "id": 7}, {"position": -1, "id": 9}, {"position": 1, "id": 3}]
    view = LensView(tiny_llama(), "w1 w2 w3", pins=pins)
    view.wait(10)
    view.row, view.position = 2, 0
    table = pd.read_csv(io.BytesIO(export(view, "csv")[2]), dtype={"pins": str})
    here = table[table["selected"] == 1]
    assert (here["point"].tolist(), here["position"].tolist()) == (["0_post"], [0])
    for position, ids in enumerate(("", "7 3", "9")):
        assert set(table["pins"].fillna("")[table["position"] == position]) == {ids}
