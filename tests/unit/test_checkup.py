"""``ll.doctor()`` says what is there, what is missing, and what was never tested."""

from __future__ import annotations

from pathlib import Path

import pytest

import layerlens as ll
from layerlens.checkup import Doctor, Finding
from layerlens.model import tested
from layerlens.views import bundle


def finding(what: str) -> Finding:
    (found,) = (one for one in ll.doctor().findings if one.what == what)
    return found


def test_every_tested_package_is_there_with_its_version() -> None:
    for package in tested.tested():
        assert finding(package).found == tested.installed(package)
    assert finding("layerlens").found == ll.__version__
    assert "processors" in finding("cpu").found


def test_an_untested_version_has_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tested, "version", lambda package: "99.0")
    assert finding("transformers").remark.startswith("newer than")
    assert "transformers" in {one.what for one in ll.doctor().remarks}


def test_a_model_that_was_never_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAYERLENS_CACHE", str(tmp_path / "not" / "there"))
    model = finding("SmolLM2-135M-Instruct")
    assert model.found == "-" and "python -m layerlens.model.default" in model.remark
    assert str(tmp_path / "not" / "there") in finding("cache").found
    assert not (tmp_path / "not").exists()


def test_a_front_end_that_was_not_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    static = tmp_path / "static"
    static.mkdir()
    (static / "lens.js").write_text("")
    monkeypatch.setattr(bundle, "STATIC", static)
    views = finding("views")
    assert views.found == "-" and "lens.js" not in views.remark
    assert "metrics.js" in views.remark and "npm run build" in views.remark
    assert "remoteEntry.js missing" in finding("JupyterLab extension").remark


def test_it_prints_and_shows_as_a_table() -> None:
    odd = Finding("files", "cache", "<b>", "wrong & odd")
    one = Doctor((Finding("devices", "cpu", "2 of 2"), odd))
    assert one.remarks == [odd]
    assert repr(one).splitlines() == [
        "1 of 2 findings has a remark.",
        "devices",
        "  cpu    2 of 2",
        "files",
        "  cache  <b>     wrong & odd",
    ]
    table = one._repr_html_()
    assert "&lt;b&gt;" in table and "wrong &amp; odd" in table and "<b>" not in table
    assert repr(Doctor((Finding("devices", "cpu", "2"),))).startswith("Everything here is as")
