"""What a model is fed for a corpus: padded or packed rows, cut or split, all counted."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import layerlens as ll
from layerlens.corpus.rows import PIECE, Rows, shards
from layerlens.errors import InputError
from layerlens.metrics.batch import GROUPS
from layerlens.model.lensmodel import LensModel


@pytest.fixture
def packing(toy: LensModel) -> LensModel:
    """The toy with an end token."""
    model = copy.copy(toy)
    model.tokenizer = copy.deepcopy(toy.tokenizer)
    model.tokenizer.eos_token = "cat"
    return model


def rows_of(model: LensModel, source: Any, most: int | None = None, **how: Any) -> Rows:
    return Rows(ll.texts(source, **how), model, most)


def test_rows_are_what_the_model_is_fed_by_itself(toy: LensModel, corpus: list[str]) -> None:
    rows = rows_of(toy, corpus)
    fed = toy.tokens(corpus)
    expected = [ids[mask].tolist() for ids, mask in zip(fed.ids, fed.mask, strict=True)]
    assert [row.ids for row in rows] == expected
    assert rows.counts.tokens == sum(fed.lengths)
    assert rows.counts.texts == rows.counts.rows == len(corpus)
    assert str(ll.texts(corpus).count(toy)).startswith(f"120 texts, {sum(fed.lengths):,} tokens")


@pytest.mark.parametrize("add_bos", [None, True, False])
def test_begin_tokens_are_as_in_model_tokens(toy: LensModel, add_bos: bool | None) -> None:
    rows = Rows(ll.texts(["owl fox"]).with_bos(add_bos), toy)
    assert next(iter(rows)).ids == toy.tokens("owl fox", add_bos=add_bos).ids[0].tolist()


@pytest.mark.model
def test_rows_of_the_default_model(default_model: LensModel) -> None:
    model = default_model
    texts = ["The capital of France is Paris.", " leading", "naïve café 🐻\n\nend"]
    fed = model.tokens(texts)
    expected = [ids[mask].tolist() for ids, mask in zip(fed.ids, fed.mask, strict=True)]
    assert [row.ids for row in rows_of(model, texts)] == expected
    packed = rows_of(model, texts, pack=True, length=5)
    end = model.tokenizer.eos_token_id
    assert [i for row in packed for i in row.ids] == [i for ids in expected for i in [*ids, end]]


def test_long_texts_are_split_or_cut(toy: LensModel) -> None:
    long = " ".join(["owl", "fox", "bee"] * 7)
    bos, ids = toy.tokenizer.bos_token_id, toy.tokens(long, add_bos=False).ids[0].tolist()
    split = rows_of(toy, ["owl", long], length=9)
    found = list(split)
    assert [row.ids for row in found[1:]] == [
        [bos, *ids[:8]],
        [bos, *ids[8:16]],
        [bos, *ids[16:]],
    ]
    assert [row.number for row in found] == [0, 1, 1 + PIECE, 1 + 2 * PIECE]
    assert {row.number % GROUPS for row in found[1:]} == {1}
    assert split.counts.split == 1 and split.counts.texts == 2 and split.counts.rows == 4
    assert split.remarks() == ["1 of 2 texts were split into rows at 9 tokens"]
    cut = rows_of(toy, ["owl", long], length=9, long="cut")
    assert [row.ids for row in cut] == [found[0].ids, found[1].ids]
    assert cut.remarks() == ["1 of 2 texts were cut off at 9 tokens"]


def test_rows_are_no_longer_than_context_and_batch(toy: LensModel) -> None:
    long = [" ".join(["owl"] * 300)]
    assert toy.max_positions == 128
    assert max(len(row.ids) for row in rows_of(toy, long)) == 128
    assert max(len(row.ids) for row in rows_of(toy, long, 64)) == 64
    with pytest.raises(InputError, match="at most 128 tokens"):
        rows_of(toy, long, length=129)
    with pytest.raises(InputError, match="does not fit into a batch of 64"):
        rows_of(toy, long, 64, length=65)


def test_packed_rows_hold_every_token_once(packing: LensModel, corpus: list[str]) -> None:
    bos, end = packing.tokenizer.bos_token_id, packing.tokenizer.eos_token_id
    stream = [
        i for text in corpus for i in [*packing.tokens(text, add_bos=False).ids[0].tolist(), end]
    ]
    rows = rows_of(packing, corpus, pack=True, length=16)
    found = list(rows)
    assert {len(row.ids) for row in found[:-1]} == {16}
    assert all(row.ids[0] == bos for row in found)
    assert [i for row in found for i in row.ids[1:]] == stream
    assert [row.number for row in found] == list(range(len(found)))
    assert rows.counts.tokens == len(stream) + len(found)
    assert "joined by the end token" in rows.remarks()[0]


def test_packing_needs_an_end_token(toy: LensModel) -> None:
    with pytest.raises(InputError, match="no end token"):
        rows_of(toy, ["owl"], pack=True)


def test_empty_texts_are_left_out_and_keep_their_number(toy: LensModel) -> None:
    rows = rows_of(toy, ["owl", "", " \n", None, [], "fox"])
    assert [row.number for row in rows] == [0, 5]
    assert rows.counts.empty == 4 and rows.counts.texts == 2
    assert rows.remarks() == ["4 empty texts were left out"]


def test_limits(toy: LensModel, corpus: list[str]) -> None:
    assert len(list(rows_of(toy, corpus, limit=7))) == 7
    rows = rows_of(toy, corpus, limit_tokens=100)
    found = [len(row.ids) - 1 for row in rows]
    assert sum(found[:-1]) < 100 <= sum(found)
    assert rows.share == 1


def test_token_ids_are_fed_as_they_are(toy: LensModel) -> None:
    assert [row.ids for row in rows_of(toy, [[1, 2, 3], [4]])] == [[1, 2, 3], [4]]
    with pytest.raises(InputError, match="Text 1 has a token id that does not exist"):
        list(rows_of(toy, [[1], [10**6]]))
    with pytest.raises(InputError, match="Text 0 is a float"):
        list(rows_of(toy, [1.5]))


def test_shards_are_the_same_whoever_asks(toy: LensModel, corpus: list[str]) -> None:
    cut = list(shards(rows_of(toy, corpus), 200))
    assert [shard.number for shard in cut] == list(range(len(cut)))
    assert [row for shard in cut for row in shard.rows] == list(rows_of(toy, corpus))
    for shard in cut[:-1]:
        assert 200 <= shard.tokens < 200 + 41
    assert cut[-1].share == 1
    assert [s.content() for s in shards(rows_of(toy, iter(corpus)), 200)] == [
        s.content() for s in cut
    ]
