"""Lenses of the default model: what it takes is said before, and a name opens what was kept."""

from __future__ import annotations

from pathlib import Path

import pytest

import layerlens as ll
from layerlens.analyses.lenses import default_lens
from layerlens.analyses.lenses.readers import reader_of


def test_lenses_are_fitted_once_and_opened_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ll.load("toy:induction")
    words = ("bee", "ant", "emu", "hen", "fox")
    texts = ll.texts([f"cat dog {word} owl fox cat dog {word} owl" for word in words])
    monkeypatch.setenv("LAYERLENS_CACHE", str(tmp_path))
    monkeypatch.setattr("layerlens.model.load.load", lambda: model)
    monkeypatch.setattr(default_lens, "corpus", lambda: texts)
    said: list[str] = []
    default_lens.fit(["bias"], say=said.append)
    assert "descriptions of installed Python packages" in said[0]
    assert "The bias lens: 1 forward passes, about" in said[1]
    assert said[2] == f"The bias lens is ready in {default_lens.place('bias')}"
    assert reader_of(model, "bias").labels == ("embed", "0_post")
    default_lens.fit(["bias"], say=said.append)
    assert "is already in" in said[-1]


def test_a_kind_that_is_none_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        default_lens.main(["tunde"])
    assert "tunde is no kind of lens: expected bias, ridge, tuned" in capsys.readouterr().err
