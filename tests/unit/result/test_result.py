"""What a result says, and its table."""

from __future__ import annotations

import sys
import types

import handmade as made
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from layerlens.errors import ResultError
from layerlens.result import Check, Checks, Result
from layerlens.result.select import one_text


def test_tidy_table() -> None:
    result = made.result(k=3)
    table = result.to_pandas()
    assert len(table) == 8 * 9
    assert list(table.columns[:5]) == ["point", "layer", "position", "token", "input_id"]
    row = table[(table.point == "0_post") & (table.position == 4)].iloc[0]
    assert row.layer == 0
    assert row.token == "👍"
    assert (row.top_id, row.top_id_2, row.top_id_3) == (6, 7, 8)
    assert (row.top_token, row.top_token_2) == ("日本", "\n")
    assert row.probability == pytest.approx(3 / 9)
    assert row.probability_2 == pytest.approx(3 / 9 / 4)
    assert row.tracked_probability_9 == pytest.approx(6 / 9)
    assert row.entropy == pytest.approx(2.0)
    assert row["rank"] == 217
    assert row.first_layer == 1
    assert table.attrs["tracked"] == {3: made.VOCAB["3"], 9: made.VOCAB["9"]}
    assert np.isnan(table[table.position == 8].cross_entropy).all()


def test_tidy_table_of_several_texts_leaves_padding_out() -> None:
    table = made.batch().to_pandas()
    assert table.groupby("batch").size().tolist() == [8 * 9, 8 * 6]
    assert table.columns[0] == "batch"


def test_tidy_table_of_another_analysis() -> None:
    grid = xr.Dataset(
        {"metric": (("layer", "position"), np.arange(6.0).reshape(2, 3))},
        coords={"token": ("position", ["a", "b", "c"])},
    )
    table = Result("patch_sweep", grid).to_pandas()
    assert table.to_dict("list") == {
        "layer": [0, 0, 0, 1, 1, 1],
        "position": [0, 1, 2, 0, 1, 2],
        "token": ["a", "b", "c"] * 2,
        "metric": [0, 1, 2, 3, 4, 5],
    }
    alone = Result("one", xr.Dataset({"cka": 0.5})).to_pandas()
    assert alone.to_dict("list") == {"cka": [0.5]}


def test_tidy_table_of_axes_that_have_nothing_to_do_with_each_other() -> None:
    data = xr.Dataset(
        {
            "skipped": ("layer", [0.0, 0.5]),
            "correct": ("simulation", [1, 0, 1]),
            "path": (("simulation", "step"), [[0, 1], [0, -1], [1, -1]]),
        }
    )
    result = Result("chain_of_layers", data)
    assert result.to_pandas().to_dict("list") == {"layer": [0, 1], "skipped": [0.0, 0.5]}
    assert result.to_pandas("correct").to_dict("list") == {
        "simulation": [0, 1, 2],
        "correct": [1, 0, 1],
    }
    table = result.to_pandas("path")
    assert list(table.columns) == ["simulation", "step", "correct", "path"] and len(table) == 6
    with pytest.raises(ResultError, match="no variable 'paht'; choose one of skipped, correct"):
        result.to_pandas("paht")


def test_one_text() -> None:
    data = made.batch().data
    assert one_text(data, 1).sizes["position"] == 6
    assert one_text(data, -2).sizes["position"] == 9
    with pytest.raises(ResultError, match="has 2 texts, so there is no text 2"):
        one_text(data, 2)


def test_repr_is_the_same_each_time_and_names_what_failed() -> None:
    first, second = made.result(), made.result()
    second.data.attrs["seconds"] = 99.0
    assert repr(first) == repr(second)
    assert "0x" not in repr(first).replace("\\x", "")
    assert "next: ' שלום' 0.89, '👍' 0.22" in repr(first)
    assert "checks: 1 of 2 not ok: <i>sum</i>" in repr(first)
    assert "checks: none" in repr(Result("x", made.dataset()))


def test_checks_print_as_a_table_in_words() -> None:
    checks = made.result().checks
    lines = repr(checks).splitlines()
    assert lines[1].startswith("final")
    assert " ok " in lines[1]
    assert " not ok " in lines[2]
    assert lines[0].index("what") == lines[1].index("the last row") == lines[2].index("probab")
    page = checks._repr_html_()
    assert "&lt;i&gt;sum&lt;/i&gt;" in page
    assert "<i>" not in page
    assert not checks.ok
    assert Checks(checks[:1]).ok
    assert repr(Checks()) == "no checks"
    assert Checks.from_json(checks.to_json()) == checks
    assert Checks([Check("a", float("nan"), 1.0, False, "")]).records()[0]["error"] is None


def test_identical() -> None:
    assert made.result().identical(made.result())
    other = made.result()
    other.data["entropy"].values[0, 0] += 1e-6
    assert not made.result().identical(other)
    assert not made.result().identical(Result("logit_lens", made.dataset(), made.CHECKS, "other"))


def test_attributes_follow_the_result() -> None:
    data = made.dataset()
    result = Result("logit_lens", data, made.CHECKS, "code")
    assert result.data.attrs["analysis"] == "logit_lens"
    assert "analysis" not in data.attrs


class _Widget:
    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, object], dict[str, object]]:
        return {"text/plain": "Widget()", "application/vnd.jupyter.widget-view+json": {}}, {}


def test_bundle_has_the_widget_a_picture_and_a_text(monkeypatch) -> None:
    views = types.SimpleNamespace(view_of=lambda result, text: _Widget())
    monkeypatch.setitem(sys.modules, "layerlens.views", views)
    result = made.result()
    bundle, _ = result._repr_mimebundle_()
    assert set(bundle) == {
        "application/vnd.jupyter.widget-view+json", "image/png", "text/plain",
    }  # fmt: skip
    assert bundle["text/plain"] == repr(result)
    assert str(bundle["image/png"]).startswith("iVBOR")
    assert set(result._repr_mimebundle_(include=["text/plain"])[0]) == {"text/plain"}
    assert "image/png" not in result._repr_mimebundle_(exclude=["image/png"])[0]


def test_bundle_without_a_widget(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "layerlens.views", None)
    bundle, _ = made.result()._repr_mimebundle_()
    assert set(bundle) == {"image/png", "text/plain"}
    assert "no widget: " in bundle["text/plain"]


def test_csv_and_images(tmp_path) -> None:
    result = made.result()
    table = pd.read_csv(result.csv(tmp_path / "a.csv"), keep_default_na=False)
    assert table.top_token[1] == "The"
    assert result.png(tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert b"<svg" in result.svg(tmp_path / "a.svg", color="entropy").read_bytes()
    with pytest.raises(ResultError, match=r"must end in \.csv"):
        result.csv(tmp_path / "a.xlsx")
