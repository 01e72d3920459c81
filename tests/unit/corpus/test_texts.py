"""``ll.texts``: every kind of source gives the same texts, lazily, or says what is wrong."""

from __future__ import annotations

import builtins
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import layerlens as ll
from layerlens.errors import InputError

TEXTS = ["one fox", "two\nowls", "", "drei Bären 🐻"]


class Dataset:
    """What matters of a Hugging Face dataset: rows of several features, some dear to decode."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.column_names = list(rows[0])

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        assert "image" not in self.column_names, "a column was decoded that nobody asked for"
        yield from self.rows

    def select_columns(self, names: list[str]) -> Dataset:
        return Dataset([{name: row[name] for name in names} for row in self.rows])


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"id": i, "body": text}) for i, text in enumerate(TEXTS)]
    path.write_text("\n".join([*lines[:2], "", *lines[2:]]), encoding="utf-8")
    assert list(ll.texts(path, field="body")) == TEXTS
    assert list(ll.texts(str(path), field="body", limit=2)) == TEXTS[:2]
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(path.read_text(encoding="utf-8"))
    assert list(ll.texts(tmp_path / "a.jsonl.gz", field="body")) == TEXTS
    shares = [share for _, share in ll.texts(path, field="body").read()]
    assert shares == sorted(shares) and 0 < shares[0] <= shares[-1] == 1


def test_plain_files_by_paragraph_line_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_bytes(b"# Head\r\nmore\r\n\r\n \nbody\n\n")
    assert list(ll.texts(path)) == ["# Head\nmore", "body"]
    assert list(ll.texts(path, split="line")) == ["# Head", "more", "", " ", "body", ""]
    assert list(ll.texts(path, split="file")) == ["# Head\nmore\n\n \nbody\n"]


def test_tables_and_data_frames(tmp_path: Path) -> None:
    frame = pd.DataFrame({"body": [text for text in TEXTS if text], "n": [1.5, None, 2.0],
                          "who": ["a", "b", "a"]})  # fmt: skip
    frame.to_csv(tmp_path / "a.csv", index=False, encoding="utf-8-sig")
    frame.to_csv(tmp_path / "a.tsv.gz", index=False, sep="\t")
    marks: dict[str, Any] = {"field": "body", "group": "who"}
    for name in ("a.csv", "a.tsv.gz"):
        read = ll.texts(tmp_path / name, label=lambda row: float(row["n"] or 0), **marks)
        assert list(read) == list(frame.body)
        assert [(i.label, i.group) for i in read.items()] == [(1.5, "a"), (0.0, "b"), (2.0, "a")]
        assert [share for _, share in read.read()][-1] == 1
    of_frame = ll.texts(frame, label="n", **marks)
    assert list(of_frame) == list(frame.body)
    assert [(i.label, i.group) for i in of_frame.items()] == [(1.5, "a"), (None, "b"), (2.0, "a")]
    with pytest.raises(InputError, match="no field 'text' in text 0: it has body, n, who"):
        list(ll.texts(frame))
    with pytest.raises(InputError, match=r"no field 'words' in line 2 of 'a.csv'"):
        list(ll.texts(tmp_path / "a.csv", field="words"))
    (tmp_path / "b.csv").write_text('text,label\n"one, two",a\nthree, four,b\n')
    with pytest.raises(InputError, match=r"ends in line 3 of .* which names text, label"):
        list(ll.texts(tmp_path / "b.csv"))
    (tmp_path / "b.csv").write_text('text,label\n"one" two,a\n')
    with pytest.raises(InputError, match=r"Line 2 of .* is not that of a table"):
        list(ll.texts(tmp_path / "b.csv"))


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": [*TEXTS, None], "n": list(range(5))})
    parquet.write_table(table, path, row_group_size=2)
    assert list(ll.texts(path)) == [*TEXTS, None]
    with pytest.raises(InputError, match="no column 'body': it has text, n"):
        list(ll.texts(path, field="body"))
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a Parquet file"):
        list(ll.texts(path))


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    path.touch()
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'jupyter-layerlens\[corpus\]'"):
        list(ll.texts(path))


def test_datasets_streams_and_lists() -> None:
    rows = [{"text": text, "image": None} for text in TEXTS]
    dataset = Dataset(rows)
    assert list(ll.texts(dataset)) == TEXTS
    assert [share for _, share in ll.texts(dataset).read()] == [0.25, 0.5, 0.75, 1]
    with pytest.raises(InputError, match="no field 'body' in the dataset: it has text, image"):
        list(ll.texts(dataset, field="body"))
    assert list(ll.texts(TEXTS)) == TEXTS
    assert list(ll.texts(row for row in rows)) == TEXTS
    assert list(ll.texts([[1, 2], [3]])) == [[1, 2], [3]]
    with pytest.raises(InputError, match="chosen from 'train', 'test'"):
        ll.texts({"train": dataset, "test": dataset})


def test_several_files_are_read_one_after_the_other(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"{name} one\n\n{name} two\n")
    several = ll.texts(sorted(tmp_path.iterdir()))
    assert list(several) == ["a one", "a two", "b one", "b two"]
    assert repr(several) == "Texts(a.txt, b.txt)"


def test_nothing_is_read_before_it_is_needed() -> None:
    seen = []

    def endless() -> Iterator[str]:
        number = 0
        while True:
            seen.append(number)
            yield f"text {number}"
            number += 1

    texts = ll.texts(endless(), limit=3)
    assert seen == []
    assert list(texts) == ["text 0", "text 1", "text 2"]
    assert len(seen) <= 4
    with pytest.raises(InputError, match="came from an iterator and were read already"):
        list(texts)


def test_a_missing_field_names_the_line_and_the_fields_there_are(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"title": "b", "id": 1}\n')
    with pytest.raises(InputError, match=r"'text' in line 2 of 'a.jsonl': it has title, id"):
        list(ll.texts(path))
    path.write_text('{"text": "a"}\nnot json\n')
    with pytest.raises(InputError, match=r"Line 2 of .* is not JSON"):
        list(ll.texts(path))


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\n\xff\xfe\n")
    with pytest.raises(InputError, match="not UTF-8 text"):
        list(ll.texts(path))
    short = tmp_path / "a.txt.gz"
    short.write_bytes(gzip.compress(b"text " * 1000)[:30])
    with pytest.raises(InputError, match="could not be read to its end"):
        list(ll.texts(short))


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nowhere.txt", {}, "There is no file 'nowhere.txt'"),
        (3, {}, "not from int"),
        (b"text", {}, "not from bytes"),
        (TEXTS, {"split": "word"}, "split is 'word'"),
        (TEXTS, {"long": "drop"}, "long is 'drop'"),
        (TEXTS, {"limit": 0}, "limit is 0"),
        (TEXTS, {"length": 1}, "length is 1"),
    ],
)
def test_what_is_refused(source: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ll.texts(source, **options)


def test_files_of_another_format_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.doc"
    path.write_text("a,b")
    with pytest.raises(InputError, match=r"'a.doc' is no file of texts"):
        ll.texts(path)
    plain = tmp_path / "a.txt"
    plain.write_text("a")
    with pytest.raises(InputError, match="has no fields"):
        list(ll.texts(plain, field="text"))


def test_it_is_written_down_as_the_call_that_makes_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.touch()
    texts = ll.texts(path, field="body", pack=True)
    assert texts.code == f"ll.texts({str(path)!r}, field='body', pack=True)"
    assert ll.texts(TEXTS).code == "ll.texts(texts)"
