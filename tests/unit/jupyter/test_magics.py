"""The commands of a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

import layerlens as ll
from layerlens.jupyter.magics import mebibytes


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    made = InteractiveShell.instance()
    made.extension_manager.load_extension("layerlens")
    made.user_ns.update(model=ll.load("toy:induction"))
    yield made
    made.extension_manager.loaded.discard("layerlens")
    InteractiveShell.clear_instance()


def test_a_text_is_shown(shell: Any) -> None:
    view = shell.run_cell_magic("lens", "", "cat dog owl cat\n")
    assert isinstance(view, ll.LensView) and view.text == "cat dog owl cat"
    assert view.model is shell.user_ns["model"]
    shell.user_ns["other"] = shell.user_ns["model"]
    heads = shell.run_cell_magic("lens", "attention --model other", "cat dog")
    assert isinstance(heads, ll.AttentionView)
    view.wait(60)
    heads.wait(60)


def test_what_is_no_model_is_told(shell: Any) -> None:
    shell.user_ns["model"] = 3
    with pytest.raises(UsageError, match="'model' is no model of layerlens"):
        shell.run_cell_magic("lens", "", "cat")
    with pytest.raises(UsageError, match="invalid choice: 'table'"):
        shell.run_cell_magic("lens", "table", "cat")


def test_status_and_free(shell: Any) -> None:
    model = shell.user_ns["model"]
    view = ll.LensView(model, "cat dog")
    view.wait(60)
    shell.user_ns["view"] = view
    found = shell.run_line_magic("layerlens", "")
    assert list(found.index) == ["model", "view"]
    weights = sum(p.nbytes for p in model.hf.parameters()) / 2**20
    assert found.MiB["model"] == pytest.approx(weights, rel=0.1) == mebibytes(model)
    assert found.MiB["view"] > 0
    assert "view" in shell.run_line_magic("layerlens", "free view")
    assert "view" not in shell.user_ns and view._closed
    with pytest.raises(UsageError, match=r"'x' holds no model or view .* these do: model"):
        shell.run_line_magic("layerlens", "free x")
    shell.run_line_magic("layerlens", "free")
    assert shell.run_line_magic("layerlens", "status").empty


def test_doctor_and_what_there_is_not(shell: Any) -> None:
    assert "torch" in str(shell.run_line_magic("layerlens", "doctor"))
    with pytest.raises(UsageError, match="status, free"):
        shell.run_line_magic("layerlens", "stauts")
