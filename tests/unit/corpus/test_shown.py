"""Few and short texts are read as they are; others by their call."""

from __future__ import annotations

from pathlib import Path

import pytest

import layerlens as ll
from layerlens.corpus.shown import MOST_LONG, MOST_TEXTS, few, reworded
from layerlens.errors import InputError


def test_few_and_short_texts_are_shown_without_the_empty_ones(tmp_path: Path) -> None:
    assert few(ll.texts([*[""] * MOST_TEXTS, "a", [3, 4]])) == ["a", [3, 4]]
    assert few(ll.texts([{"said": "a"}, {"said": "b"}], field="said", limit=1)) == ["a"]
    assert few(ll.texts(["a"] * MOST_TEXTS)) == ["a"] * MOST_TEXTS
    assert few(ll.texts(["a"] * (MOST_TEXTS + 1))) is None
    assert few(ll.texts(["a" * MOST_LONG])) == ["a" * MOST_LONG]
    assert few(ll.texts(["a" * MOST_LONG, "b"])) is None
    assert few(ll.texts(["a b c"], length=2)) is None  # rows are not the texts
    path = tmp_path / "one.txt"
    path.write_text("a")
    assert few(ll.texts(path)) is None
    assert few(ll.texts([path])) is None
    once = iter(["a"])
    assert few(ll.texts(once)) is None
    assert next(once) == "a"  # nothing was read
    with pytest.raises(InputError, match="no field"):
        few(ll.texts([{"text": "a"}], field="said"))


def test_other_words_keep_label_and_group_of_the_place() -> None:
    records = [{"said": "a", "by": "x"}, {"said": " ", "by": "y"}, {"said": "c", "by": "z"}]
    given = ll.texts(records, field="said", label=lambda record: record["by"] * 2, group="by")
    again = reworded(given, ("d", "e"))
    assert [(i.text, i.label, i.group) for i in again.items()] == [
        ("d", "xx", "x"),
        ("e", "zz", "z"),
    ]
    assert reworded(given, ("d", "e")) is again
    assert again.code == "ll.texts(['d', 'e'], label=['xx', 'zz'], group=['x', 'z'])"
    with pytest.raises(InputError, match="2 labels for 1 texts"):
        reworded(given, ("d",))
