"""Arrays as the browser gets them: small little-endian buffers, and many of them in one blob.

A *frame* is a header (which arrays, where they go, the vocabulary strings they need) and one
buffer an array. A *pack* is a whole result: its ``meta`` and all its frames, deflated. The same
bytes are the widget's snapshot and the data of a frozen HTML file.

Layout of a pack before ``zlib``: header length (uint32, little-endian); header JSON, padded with
spaces so that what follows starts at a multiple of 8; the buffers in order, each padded to a
multiple of 8.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from layerlens.result.select import answer_names

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

ALIGN = 8
SMALL_VOCABULARY = 65536


class ArrayHeader(TypedDict):
    """Where one buffer belongs: ``start`` and ``shape`` are given along ``dims``."""

    name: str
    dims: list[str]
    dtype: str
    start: list[int]
    shape: list[int]


class FrameHeader(TypedDict):
    """One frame; ``seq`` counts from 1 within a run, ``vocab`` maps ids to display strings."""

    run: int
    seq: int
    last: bool
    arrays: list[ArrayHeader]
    vocab: dict[str, str]


Frame = tuple[FrameHeader, list[bytes]]


@dataclass(frozen=True)
class Wire:
    """How one variable of a result travels."""

    name: str
    dtype: str
    log: bool = False
    none: int = 0


WIRE: dict[str, Wire] = {
    "token_id": Wire("token_id", "id"),
    "probability": Wire("logprob", "float32", log=True),
    "logprob": Wire("logprob", "float32"),
    "entropy": Wire("entropy", "float16"),
    "cross_entropy": Wire("cross_entropy", "float16"),
    "kl_to_final": Wire("kl_to_final", "float16"),
    "rank": Wire("rank", "uint32"),
    "tracked_probability": Wire("tracked_probability", "float32"),
    "tracked_rank": Wire("tracked_rank", "uint32"),
    "first_layer": Wire("first_layer", "int32", none=-2),
    "settle_layer": Wire("settle_layer", "int32", none=-2),
    "target_id": Wire("target_id", "int32", none=-1),
    "other_token_id": Wire("other_token_id", "int32", none=-1),
    "other_probability": Wire("other_logprob", "float32", log=True),
    "other_entropy": Wire("other_entropy", "float16"),
    "other_kl_to_final": Wire("other_kl_to_final", "float16"),
    "other_rank": Wire("other_rank", "uint32"),
    "other_tracked_probability": Wire("other_tracked_probability", "float32"),
    "other_target_id": Wire("other_target_id", "int32", none=-1),
    "change": Wire("change", "float32"),
    "kl_between": Wire("kl_between", "float32"),
    "metric": Wire("metric", "float32"),
    "recovered": Wire("recovered", "float32"),
    "estimate": Wire("estimate", "float32"),
}
"""Variables of a result that travel, by their names in ``Result.data``.

``none`` is what NaN becomes in an integer array: rank 0, token -1, layer -2 (-1 is `embed`).
"""


def wires_of(data: xr.Dataset) -> dict[str, Wire]:
    """Return how each variable of a result travels; those that are not named stay.

    Where a result names its ``variables`` in an attribute, all of these do: they depend on what
    was asked for.
    """
    if "variables" not in data.attrs:
        return WIRE
    named = [name for name in json.loads(data.attrs["variables"]) if name in data.data_vars]
    return {name: plain_wire(name, data[name].dtype) for name in named}


def plain_wire(name: str, dtype: np.dtype[Any] | str) -> Wire:
    """Return how an array travels that has no entry in `WIRE`: as it is, in four bytes."""
    return Wire(name, "float32" if np.dtype(dtype).kind == "f" else "int32", none=-1)


def answer_wires(data: xr.Dataset) -> dict[str, Wire]:
    """Return how the arrays of an answer of any analysis travel, ends of intervals among them."""
    return {name: plain_wire(name, data[name].dtype) for name in answer_names(data)}


def id_dtype(d_vocab: int) -> str:
    """Return the narrowest dtype that holds every id of a vocabulary of `d_vocab` rows."""
    return "uint16" if d_vocab <= SMALL_VOCABULARY else "uint32"


def encode(wire: Wire, values: NDArray[Any], d_vocab: int) -> tuple[str, str, bytes]:
    """Turn the values of one variable into what travels.

    Parameters
    ----------
    wire : Wire
        How it travels.
    values : ndarray
        Any shape; written in C order.
    d_vocab : int
        Rows of the vocabulary; decides the width of token ids.

    Returns
    -------
    name : str
        The name on the wire (``probability`` travels as ``logprob``, in nats).
    dtype : str
        The dtype on the wire.
    buffer : bytes
        Little-endian values.
    """
    dtype = np.dtype(id_dtype(d_vocab) if wire.dtype == "id" else wire.dtype).newbyteorder("<")
    array = np.asarray(values)
    if wire.log:
        with np.errstate(divide="ignore", invalid="ignore"):
            array = np.log(array.astype(np.float64))
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            encoded = array.astype(dtype)
    else:
        if array.dtype.kind == "f":
            array = np.where(np.isnan(array), wire.none, array)
        info = np.iinfo(dtype)
        encoded = np.clip(array.astype(np.int64), info.min, info.max).astype(dtype)
    return wire.name, dtype.name, np.ascontiguousarray(encoded).tobytes()


def array_frame(
    wire: Wire, values: NDArray[Any], dims: Sequence[str], start: Sequence[int], d_vocab: int
) -> tuple[ArrayHeader, bytes]:
    """Return the header and buffer of one array; `values` has one axis for each of `dims`."""
    wire_name, dtype, buffer = encode(wire, values, d_vocab)
    header = ArrayHeader(
        name=wire_name,
        dims=list(dims),
        dtype=dtype,
        start=[int(i) for i in start],
        shape=[int(n) for n in np.shape(values)],
    )
    return header, buffer


def frames_of(
    data: xr.Dataset, run: int = 1, wires: Mapping[str, Wire] | None = None
) -> list[Frame]:
    """Return a whole result as frames.

    Parameters
    ----------
    data : xarray.Dataset
        The data of a result of one text (no ``batch`` axis).
    run : int
        The run id that the frames carry.
    wires : mapping, optional
        Which variables travel, and how; by default those of `wires_of`.

    Returns
    -------
    list of (header, buffers)
        One frame with every variable of `wires`; complete, so ``seq`` is 1 and ``last``.
    """
    d_vocab = vocabulary_rows(data)
    arrays: list[ArrayHeader] = []
    buffers: list[bytes] = []
    for name, wire in (wires_of(data) if wires is None else wires).items():
        if name not in data or (name == "probability" and "logprob" in data):
            continue
        variable = data[name]
        dims = [str(dim) for dim in variable.dims]
        header, buffer = array_frame(wire, variable.values, dims, [0] * len(dims), d_vocab)
        arrays.append(header)
        buffers.append(buffer)
    frame = FrameHeader(run=run, seq=1, last=True, arrays=arrays, vocab=_vocab(data))
    return [(frame, buffers)]


def _vocab(data: xr.Dataset) -> dict[str, str]:
    """Return the strings of the ids that occur; those of many texts stay behind."""
    vocab: dict[str, str] = json.loads(data.attrs.get("vocab", "{}"))
    if "variables" not in data.attrs:
        return vocab
    whole = [array.values for array in data.values() if array.dtype.kind in "iu"]
    used = {str(i) for values in whole for i in np.unique(values).tolist()}
    return {i: text for i, text in vocab.items() if i in used}


def vocabulary_rows(data: xr.Dataset) -> int:
    """Return the rows of the vocabulary: those of head and embedding, else what the ids need."""
    if "d_vocab" in data.attrs:
        return max(int(data.attrs["d_vocab"]), int(data.attrs.get("d_vocab_in", 0)))
    if "token_id" in data and data["token_id"].size:
        return int(data["token_id"].max()) + 1
    return SMALL_VOCABULARY


def pack(meta: Mapping[str, Any], frames: Iterable[Frame]) -> bytes:
    """Return `meta` and `frames` as one deflated blob (layout: see the module)."""
    frames = list(frames)
    header = {"meta": dict(meta), "frames": [header for header, _ in frames]}
    text = json.dumps(header, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A lone surrogate cannot be UTF-8; escaped, it is valid JSON and survives.
    encoded = text.encode("utf-8", errors="backslashreplace")
    encoded += b" " * (-(4 + len(encoded)) % ALIGN)
    parts = [struct.pack("<I", len(encoded)), encoded]
    for _, buffers in frames:
        for buffer in buffers:
            parts += [bytes(buffer), b"\0" * (-len(buffer) % ALIGN)]
    return zlib.compress(b"".join(parts), 6)


def unpack(packed: bytes) -> tuple[dict[str, Any], list[tuple[FrameHeader, list[NDArray[Any]]]]]:
    """Return the meta and the frames of a pack, each buffer as an array of its dtype and shape."""
    raw = zlib.decompress(packed)
    (length,) = struct.unpack_from("<I", raw)
    header = json.loads(raw[4 : 4 + length].decode("utf-8"))
    offset = 4 + length
    frames: list[tuple[FrameHeader, list[NDArray[Any]]]] = []
    for frame in header["frames"]:
        arrays = []
        for item in frame["arrays"]:
            dtype = np.dtype(item["dtype"]).newbyteorder("<")
            count = int(np.prod(item["shape"], dtype=np.int64))
            flat = np.frombuffer(raw, dtype=dtype, count=count, offset=offset)
            arrays.append(flat.reshape(item["shape"]))
            offset += -(-count * dtype.itemsize // ALIGN) * ALIGN
        frames.append((frame, arrays))
    return header["meta"], frames
