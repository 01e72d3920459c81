"""Texts set apart by text or by group, and the labels that travel with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerlens as ll
from layerlens.analyses.contract.job import Job
from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.contract.split import split_texts
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel


def test_every_text_is_on_one_side_and_the_seed_says_which() -> None:
    found = split_texts([None] * 10, seed=3, test=0.3)
    assert (len(found.test), found.by) == (3, "text")
    assert sorted(found.train + found.test) == list(range(10))
    assert found == split_texts([None] * 10, seed=3, test=0.3)
    others = {split_texts([None] * 10, seed=seed, test=0.3).test for seed in range(20)}
    assert len(others) > 10
    assert [found.is_test(n) for n in found.test] == [True] * 3


def test_a_group_is_never_torn_apart() -> None:
    groups = list("aabbbccdddd")
    for seed in range(20):
        found = split_texts(groups, seed=seed, test=0.5)
        assert found.by == "group"
        assert not {groups[n] for n in found.train} & {groups[n] for n in found.test}
        assert len({groups[n] for n in found.test}) == 2


@pytest.mark.parametrize(
    ("groups", "test", "message"),
    [
        ([None] * 3, 0.1, "leaves none for test"),
        ([None] * 3, 0.9, "leaves none for training"),
        (["a"] * 9, 0.5, "Of 1 group, a share of 0.5"),
        (["a", None, "b"], 0.5, "Text 1 has no group"),
        ([None] * 3, 1.0, "between 0 and 1"),
        ([None] * 3, True, "between 0 and 1"),
    ],
)
def test_what_leaves_a_side_empty_is_refused(groups: Any, test: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_texts(groups, seed=0, test=test)


def job(model: LensModel, texts: Any) -> Job:
    return Job({}, Silent(), batched=False, model=model, fed={"text": texts})


def marks(texts: ll.Texts) -> list[tuple[Any, Any]]:
    return [(item.label, item.group) for item in texts.items()]


def test_labels_and_groups_are_lists_functions_or_fields(tmp_path: Path) -> None:
    rows = [{"text": "one", "kind": 1, "by": "x"}, {"text": "two", "kind": 2, "by": "y"}]
    wanted = [(1, "x"), (2, "y")]
    assert marks(ll.texts(["one", "two"], label=[1, 2], group=("x", "y"))) == wanted
    assert marks(ll.texts(["one", "two"], label=np.array([1, 2]), group=["x", "y"])) == wanted
    assert marks(ll.texts(rows, label="kind", group=lambda row: row["by"])) == wanted
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    fields = ll.texts(path, label="kind", group="by")
    assert marks(fields) == wanted
    assert list(fields) == ["one", "two"]
    assert fields.code.endswith("label='kind', group='by')")
    assert marks(ll.texts(path, label="kind", limit=1)) == [(1, None)]


def test_labels_are_columns_of_a_table(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["one", "two"], "kind": [1, 2]}), path)
    assert marks(ll.texts(path, label="kind")) == [(1, None), (2, None)]
    assert list(ll.texts(path, label="kind")) == ["one", "two"]
    with pytest.raises(InputError, match="no column 'sort'"):
        marks(ll.texts(path, label="sort"))


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 labels for 2 texts"):
        ll.texts(["one", "two"], label=[1])
    for labels in ([1], [1, 2, 3]):
        with pytest.raises(InputError, match=f"{len(labels)} labels for 2 texts"):
            marks(ll.texts(iter(["one", "two"]), label=labels))
    with pytest.raises(InputError, match="no field 'kind'"):
        marks(ll.texts([{"text": "one"}], label="kind"))
    with pytest.raises(InputError, match="a text alone"):
        marks(ll.texts(["one"], label="kind"))
    with pytest.raises(InputError, match="leave pack out"):
        ll.texts(["one"], group=[1], pack=True)
    path = tmp_path / "a.txt"
    path.write_text("one\n\ntwo")
    with pytest.raises(InputError, match="has no fields"):
        marks(ll.texts(path, label="kind"))
    assert marks(ll.texts(path, label=["a", "b"])) == [("a", None), ("b", None)]


def test_a_split_is_noted_and_goes_by_groups(gpt2: LensModel) -> None:
    texts = [[1, 2], [3, 4], [5, 6], [7, 8]]
    asked = job(gpt2, ll.texts(texts, label=list("abab"), group=[0, 0, 1, 1]))
    found = asked.split(seed=1, test=0.5)
    assert {found.train, found.test} == {(0, 1), (2, 3)}
    assert asked.labels() == ["a", "b", "a", "b"]
    assert asked.notes == {
        "split_by": "group",
        "split_seed": 1,
        "split_test": 0.5,
        "split_train_texts": 2,
        "split_test_texts": 2,
    }
    plain = job(gpt2, gpt2.tokens(texts))
    assert plain.split(seed=1, test=0.25).by == "text"
    with pytest.raises(InputError, match="have no labels"):
        plain.labels()
