"""The frames of one run: finished parts of an answer on their way to the front end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from layerlens.analyses.contract.parts import Coords, Parts, Variable
from layerlens.export.pack import WIRE, ArrayHeader, Frame, FrameHeader, Wire, array_frame

if TYPE_CHECKING:
    import xarray as xr

SECONDS_BETWEEN_FRAMES = 0.05
"""At most 20 frames a second; what is finished meanwhile travels in the next one."""

Box = tuple[slice, ...]


class Stream:
    """Arrays that fill up, and the frames that carry what is new in them.

    Parameters
    ----------
    run : int
        The run that the frames belong to.
    variables : mapping
        The analysis's variables; those that travel are in `wires`.
    d_vocab : int
        Rows of the vocabulary.
    token_string : callable
        Id to display string; each id that occurs is sent once, with the first frame it is in.
    send : callable
        Takes a header and its buffers.
    wires : mapping
        Name of a variable to how it travels.
    """

    def __init__(
        self,
        run: int,
        variables: Mapping[str, Variable],
        d_vocab: int,
        token_string: Callable[[int], str],
        send: Callable[[Frame], None],
        wires: Mapping[str, Wire] = WIRE,
    ) -> None:
        self.run = run
        self.sent: list[Frame] = []
        self._wires = wires
        self._variables = {name: v for name, v in variables.items() if name in wires}
        if "logprob" in self._variables:
            self._variables.pop("probability", None)
        self._d_vocab = d_vocab
        self._token_string = token_string
        self._send = send
        self._parts: Parts | None = None
        self._dirty: dict[str, Box] = {}
        self._known: set[int] = set()
        self._last_time = -float("inf")

    @classmethod
    def finished(cls, frames: list[Frame], run: int) -> Stream:
        """Return a stream that has said everything."""
        stream = cls(run, {}, 0, str, lambda frame: None)
        stream.sent = list(frames)
        return stream

    def hold(self, data: xr.Dataset) -> None:
        """Learn the data of the finished result, of one text; frames need nothing of it."""

    def declare(self, sizes: Mapping[str, int], coords: Coords) -> None:
        """Learn the lengths of the axes."""
        self._parts = Parts(self._variables, sizes, coords, batched=False)

    def shorten(self, axis: str, length: int) -> None:
        """Leave off the end of an axis, for whoever comes late in what was sent, too."""
        if self._parts is not None:
            self._parts.shorten(axis, length)
        self.sent = [_cut(frame, axis, length) for frame in self.sent]

    def put(self, where: Mapping[str, int | slice], arrays: Mapping[str, np.ndarray]) -> None:
        """Take a finished part; it leaves at once, or with the next frame."""
        if self._parts is None:
            return
        known = {name: array for name, array in arrays.items() if name in self._parts.arrays}
        self._parts.put(where, known)
        for name in known:
            box = tuple(
                _span(where.get(axis, slice(None)), length)
                for axis, length in zip(
                    self._parts.dims[name], self._parts.arrays[name].shape, strict=True
                )
            )
            self._dirty[name] = _around(self._dirty.get(name), box)
        self.poke()

    def poke(self) -> None:
        """Send what is new if the last frame is long enough ago."""
        if self._dirty and time.monotonic() - self._last_time >= SECONDS_BETWEEN_FRAMES:
            self._flush(last=False)

    def finish(self) -> None:
        """Send the rest; no frame follows."""
        if not self.ended:
            self._flush(last=True)

    @property
    def ended(self) -> bool:
        """Whether no frame follows."""
        return bool(self.sent) and self.sent[-1][0]["last"]

    def after(self, run: int, seq: int) -> list[Frame]:
        """Return the frames that a front end lacks which has `seq` frames of `run`."""
        return self.sent[max(seq, 0) :] if run == self.run else list(self.sent)

    def merged(self) -> list[Frame]:
        """Return all that was put as one frame, as a snapshot holds it."""
        if self._parts is None:
            return list(self.sent)
        headers, buffers = [], []
        for name, values in self._parts.arrays.items():
            start = [0] * values.ndim
            header, buffer = self._encoded(name, values, start)
            headers.append(header)
            buffers.append(buffer)
        vocab: dict[str, str] = {}
        for frame, _ in self.sent:
            vocab |= frame["vocab"]
        whole = FrameHeader(run=self.run, seq=1, last=True, arrays=headers, vocab=vocab)
        return [(whole, buffers)]

    def _encoded(
        self, name: str, values: np.ndarray, start: Sequence[int]
    ) -> tuple[ArrayHeader, bytes]:
        dims = () if self._parts is None else self._parts.dims[name]
        return array_frame(self._wires[name], values, dims, start, self._d_vocab)

    def _flush(self, *, last: bool) -> None:
        headers, buffers, ids = [], [], set()
        for name, box in self._dirty.items():
            if self._parts is None:
                break
            # A box round all new parts may cover unfinished cells too; they hold "not yet".
            values = self._parts.arrays[name][box]
            start = [span.start for span in box]
            header, buffer = self._encoded(name, values, start)
            headers.append(header)
            buffers.append(buffer)
            if self._variables[name].is_token:
                ids.update(np.unique(values).tolist())
        self._dirty = {}
        new = sorted(i for i in ids - self._known if i >= 0)
        self._known.update(new)
        frame = FrameHeader(
            run=self.run,
            seq=len(self.sent) + 1,
            last=last,
            arrays=headers,
            vocab={str(i): self._token_string(i) for i in new},
        )
        self.sent.append((frame, buffers))
        self._send((frame, buffers))
        self._last_time = time.monotonic()


def _cut(frame: Frame, axis: str, length: int) -> Frame:
    """A frame without what lies beyond the end of an axis."""
    header, buffers = frame
    arrays, left = [], []
    for array, buffer in zip(header["arrays"], buffers, strict=True):
        if axis in array["dims"]:
            at = array["dims"].index(axis)
            shape = list(array["shape"])
            values = np.frombuffer(buffer, np.uint8).reshape(*shape, -1 if buffer else 0)
            shape[at] = min(shape[at], max(0, length - array["start"][at]))
            buffer = np.take(values, range(shape[at]), at).tobytes()
            array = ArrayHeader(**{**array, "shape": shape})
        arrays.append(array)
        left.append(buffer)
    return FrameHeader(**{**header, "arrays": arrays}), left


def _span(where: int | slice, length: int) -> slice:
    if isinstance(where, slice):
        start, stop, _ = where.indices(length)
        return slice(start, stop)
    index = int(where) % length if length else 0
    return slice(index, index + 1)


def _around(one: Box | None, other: Box) -> Box:
    if one is None:
        return other
    return tuple(
        slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True)
    )
