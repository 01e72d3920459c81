"""The tables of analyses and metrics: whole, searchable, without torch, and up to date."""

from __future__ import annotations

import html
import subprocess
import sys

import pandas as pd
import pytest

import layerlens as ll


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_is_written_down_is_what_they_say() -> None:
    code = "from layerlens import index; print(index._written() == index.now())"
    assert run(code) == "True", "write the index again: python -m layerlens.index"


def test_the_tables_need_no_torch() -> None:
    code = (
        "import sys, layerlens as ll; repr(ll.analyses()), ll.metrics()._repr_html_(); "
        "print(len(ll.analyses()), len(ll.metrics()), 'torch' in sys.modules)"
    )
    analyses, metrics, torch = run(code).split()
    assert int(analyses) > 20 and int(metrics) > 40 and torch == "False"


@pytest.mark.parametrize("table", [ll.analyses, ll.metrics])
def test_sentences_are_shown_whole(table) -> None:
    found = table()
    longest = max(found["question"], key=len)
    assert len(longest) > 60 and longest in " ".join(repr(found[["question"]]).split())
    page = found._repr_html_()
    assert page.count("<tr") > len(found) and "..." not in page
    assert all(html.escape(text, quote=False) in page for text in found["question"])
    assert "text-align: left" in found[["question"]]._repr_html_()
    assert pd.get_option("display.max_colwidth") == 50


def test_words_choose_rows() -> None:
    every, some = ll.metrics(), ll.metrics("RANK", "text")
    assert 0 < len(some) < len(every)
    said = every.apply(lambda row: " ".join([row.name, *row]).lower(), axis=1)
    assert (
        some.index.tolist()
        == every.index[said.str.contains("rank") & said.str.contains("text")].tolist()
    )
    assert "knockout" in ll.analyses("attention").index
    none = ll.analyses("no such word")
    assert none.empty and none.columns.tolist() == ll.analyses().columns.tolist()


def test_one_that_is_registered_in_a_session_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from layerlens.metrics import registry
    from layerlens.metrics.stream import ResidualNorm

    class Mine(ResidualNorm):
        name = "mine"
        question = "Is it mine?"

    registry.every()
    monkeypatch.setattr(registry, "_METRICS", dict(registry._METRICS))
    registry.register(Mine)
    assert ll.metrics("is it mine").index.tolist() == ["mine"]
