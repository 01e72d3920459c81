"""What the browser gets."""

from __future__ import annotations

import json
import struct
import zlib

import handmade as made
import numpy as np
import pytest

from layerlens.export.meta import meta_from, meta_of
from layerlens.export.pack import WIRE, array_frame, frames_of, id_dtype, pack, unpack


def test_pack_and_unpack() -> None:
    result = made.result()
    meta = meta_of(result.data, result.checks)
    packed = pack(meta, frames_of(result.data))
    back, [(header, arrays)] = unpack(packed)
    assert back == meta
    found = {item["name"]: array for item, array in zip(header["arrays"], arrays, strict=True)}
    data = result.data
    assert np.array_equal(found["token_id"], data.token_id.values)
    assert found["token_id"].dtype == np.uint16
    assert found["logprob"].dtype == np.float32
    assert np.allclose(np.exp(found["logprob"].astype(float)), data.probability, rtol=1e-6)
    assert np.allclose(found["entropy"], data.entropy, rtol=1e-3)
    assert np.isnan(found["cross_entropy"][:, -1]).all()
    assert np.array_equal(found["rank"], data["rank"])
    assert np.array_equal(found["tracked_probability"], data.tracked_probability)
    assert header["vocab"]["3"] == " שלום"
    assert (header["run"], header["seq"], header["last"]) == (1, 1, True)


def test_buffers_are_aligned_and_the_layout_is_as_written() -> None:
    result = made.result()
    raw = zlib.decompress(pack(meta_of(result.data), frames_of(result.data)))
    (length,) = struct.unpack_from("<I", raw)
    assert (4 + length) % 8 == 0
    [frame] = json.loads(raw[4 : 4 + length])["frames"]
    offset = 4 + length
    for item in frame["arrays"]:
        assert offset % 8 == 0
        dtype = np.dtype(item["dtype"])
        size = int(np.prod(item["shape"])) * dtype.itemsize
        if item["name"] == "entropy":
            values = np.frombuffer(raw, "<f2", int(np.prod(item["shape"])), offset)
            assert np.allclose(values.reshape(item["shape"]), result.data.entropy, rtol=1e-3)
        offset += -(-size // 8) * 8
    assert offset == len(raw)


def test_missing_values_and_impossible_ones() -> None:
    def sent(name: str, values: list[float], d_vocab: int = 10) -> list[float]:
        header, buffer = array_frame(WIRE[name], np.array(values), ["position"], [0], d_vocab)
        return np.frombuffer(buffer, header["dtype"]).tolist()

    assert sent("rank", [1.0, float("nan"), -1.0]) == [1, 0, 0]
    assert sent("target_id", [3.0, float("nan")]) == [3, -1]
    assert sent("first_layer", [-1, 4]) == [-1, 4]
    assert sent("probability", [1.0, 0.0]) == [0.0, -np.inf]
    assert np.isnan(sent("probability", [float("nan")])[0])
    assert sent("token_id", [70000], d_vocab=70001) == [70000]
    assert (id_dtype(65536), id_dtype(65537)) == ("uint16", "uint32")


def test_a_row_says_where_it_goes() -> None:
    row = np.ones((1, 4, 2), np.float32)
    header, buffer = array_frame(
        WIRE["probability"], row, ["point", "position", "k"], [7, 0, 0], 10
    )
    assert header == {
        "name": "logprob",
        "dims": ["point", "position", "k"],
        "dtype": "float32",
        "start": [7, 0, 0],
        "shape": [1, 4, 2],
    }
    assert len(buffer) == 32


def test_meta() -> None:
    result = made.result()
    meta = meta_of(result.data, result.checks, run=4)
    assert meta["run"] == 4
    assert meta["points"][0] == "embed"
    assert meta["layers"][-1] == meta["n_layers"] == 3
    assert meta["tokens"][5] == {"id": 5, "text": "", "cont": True}
    assert meta["tracked"] == [{"id": 3, "text": " שלום"}, {"id": 9, "text": "مرحبا"}]
    assert meta["notes"] == ["BOS <s> was added in front"]
    assert [check["ok"] for check in meta["checks"]] == [True, False]
    assert json.loads(json.dumps(meta, allow_nan=False)) == meta


def test_meta_before_any_number_is_that_of_the_result() -> None:
    data = made.dataset()
    coords = {str(name): data[name].values for name in data.coords}
    assert meta_from(data.attrs, coords) == meta_of(data)


@pytest.mark.parametrize("text", ["\ud83d", "\u2028", "</script>", "\0"])
def test_any_text_can_be_packed(text: str) -> None:
    meta, _ = unpack(pack({"text": text}, []))
    assert meta["text"] == text
