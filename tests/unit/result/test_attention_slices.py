"""A layer of attention as bytes and back."""

from __future__ import annotations

import numpy as np
import pytest

from layerlens.export.attention_slices import Key, Slice, decode, encode, with_slices

RNG = np.random.default_rng(0)


def pattern(heads: int, size: int) -> np.ndarray:
    scores = RNG.normal(size=(heads, size, size)) + np.triu(np.full((size, size), -np.inf), 1)
    weights = np.exp(scores)
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def test_a_causal_layer_travels_as_its_lower_triangle() -> None:
    values = pattern(12, 256)
    found = encode(values)
    assert found.header["causal"]
    assert len(found.data) == 12 * 256 * 257 // 2
    assert len(found.data) <= 0.39 * 2**20
    back = decode(found)
    # Half a step of the root is at most a step of the weight, and less for small ones.
    assert np.abs(np.sqrt(back) - np.sqrt(values)).max() <= 1 / 255 / 2 * 1.001
    assert np.abs(back - values).max() <= values.max() / 255
    # Row by row: the first bytes are those of query 0, of query 1, ...
    first = np.frombuffer(found.data, np.uint8)[: 256 * 257 // 2]
    expected = np.rint(np.sqrt(values[0] / values[0].max()) * 255).astype(np.uint8)
    assert first[:6].tolist() == [expected[0, 0], *expected[1, :2], *expected[2, :3]]


def test_attention_that_looks_ahead_travels_whole() -> None:
    values = RNG.random((2, 3, 5)).astype(np.float32)
    found = encode(values)
    assert (found.header["causal"], len(found.data)) == (False, 30)
    assert np.allclose(decode(found), values, atol=1 / 255)


def test_weights_far_below_the_largest_are_no_zeros() -> None:
    size = 512
    even = (np.tri(size) / np.arange(1, size + 1)[:, None])[None].astype(np.float32)
    found = encode(even)
    assert found.header["root"]
    last = decode(found)[0, -1]
    assert np.allclose(last, 1 / size, rtol=0.05)


def test_each_head_has_its_own_scale() -> None:
    values = np.stack([np.eye(3), 0.01 * np.eye(3)]).astype(np.float32)
    found = encode(values)
    assert found.header["max"] == pytest.approx([1, 0.01])
    assert np.allclose(decode(found), values, atol=1e-7)


def test_scores_keep_a_byte_for_what_is_masked() -> None:
    scores = np.where(np.tri(4, dtype=bool), RNG.normal(size=(2, 4, 4)), -np.inf)
    scores[0, 3, 0] = -np.inf  # beyond a window
    found = encode(scores, blank=True)
    back = decode(found)
    assert found.header["causal"]
    assert np.array_equal(np.isneginf(back), np.isneginf(scores))
    seen = np.isfinite(scores)
    assert np.abs(back[seen] - scores[seen]).max() < np.ptp(scores[seen]) / 254


def test_signed_weights_and_heads_that_are_not_there() -> None:
    values = np.stack([np.array([[0.5, -0.5], [1.0, -1.0]]), np.full((2, 2), np.nan)])
    found = encode(values.astype(np.float32))
    assert found.header["min"] == [-1, 0]
    assert np.allclose(decode(found)[0], values[0], atol=1 / 200)
    assert not decode(found)[1].any()


def test_a_page_holds_the_layers_next_to_the_one_that_is_looked_at() -> None:
    meta = {
        "parts": ["self"], "by_part": {}, "layers": list(range(6)), "other": None,
        "weightings": ["pattern"],
    }  # fmt: skip
    piece = encode(pattern(1, 4))

    def get(key: Key) -> Slice | None:
        return None if key.layer == 5 else piece

    whole = with_slices(meta, get)
    assert whole["kept_layers"] == [0, 1, 2, 3, 4]
    assert "layers 0 to 4 of 6" in whole["kept_words"]
    some = with_slices(meta, get, first=3, most_bytes=35)
    assert some["kept_layers"] == [2, 3, 4]
    assert sorted(some["slices"]) == [f"{layer}/self/pattern/0" for layer in (2, 3, 4)]
    assert with_slices(meta, get, first=1, most_bytes=1)["kept_layers"] == [1]
    assert with_slices({**meta, "layers": [1, 2]}, get)["kept_words"] == ""
