"""Pictures, sounds and pairs of texts, which stand where a text stands."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layerlens.errors import InputError


@dataclass(frozen=True, eq=False)
class Given:
    """Pictures or sounds.

    Attributes
    ----------
    kind
        ``"images"`` or ``"audio"``.
    items
        Each as it was given: a path, an array, a ``PIL.Image``.
    single
        Just one was given: results get no axis of texts.
    rate
        Samples a second of sounds.
    """

    kind: str
    items: tuple[Any, ...]
    single: bool
    rate: int | None = None

    @property
    def code(self) -> str:
        """The Python that gives them again; arrays are written as variables."""
        written = [
            repr(os.fspath(item)) if isinstance(item, str | os.PathLike) else self.kind.rstrip("s")
            for item in self.items
        ]
        inside = written[0] if self.single else f"[{', '.join(written)}]"
        rate = "" if self.rate is None else f", rate={self.rate}"
        return f"ll.{self.kind}({inside}{rate})"

    @property
    def names(self) -> tuple[str, ...]:
        """What each is called: the name of its file, or its size."""
        return tuple(_name(item) for item in self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"{self.kind}: {', '.join(self.names)}"


@dataclass(frozen=True)
class Sides:
    """What an encoder reads and what its decoder has written of the answer.

    Attributes
    ----------
    source
        A text, or sounds from ``ll.audio``; several as a list.
    target
        Text, or token ids, that the decoder has written so far; several as a list.
    """

    source: Any
    target: Any = ""

    @property
    def code(self) -> str:
        """The Python that gives it again."""
        source = getattr(self.source, "code", None) or repr(self.source)
        return f"ll.sides({source}, {self.target!r})"


def images(given: Any) -> Given:
    """Pictures, to stand where a text stands.

    Parameters
    ----------
    given
        A path, a ``PIL.Image``, or an array: ``[height, width]`` or ``[height, width, 3]`` of
        bytes, or ``[channel, height, width]`` of the very numbers that the model takes; or a
        list of these (a column of a dataset).

    Raises
    ------
    InputError
        If nothing, or something else is given.

    Examples
    --------
    >>> import numpy as np
    >>> import layerlens as ll
    >>> ll.images(np.zeros((8, 8), dtype=np.uint8))
    images: 8 x 8
    """
    return _given("images", given, 4)


def audio(given: Any, *, rate: int | None = None) -> Given:
    """Sounds, to stand where a text stands.

    Parameters
    ----------
    given
        The path of a ``.wav`` file, or an array ``[sample]`` of numbers from -1 to 1; or a list
        of these.
    rate
        Samples a second of arrays; None: as many as the model takes.

    Raises
    ------
    InputError
        If nothing, or something else is given.

    Examples
    --------
    >>> import numpy as np
    >>> import layerlens as ll
    >>> ll.audio(np.zeros(16000), rate=16000)
    audio: 16000 samples
    """
    return _given("audio", given, 2, rate)


def sides(source: Any, target: Any = "") -> Sides:
    """A text to read and a text to write, to stand where a text stands.

    For an encoder with a decoder. The positions of results are those of the written side.

    Parameters
    ----------
    source
        What the encoder reads: a text, or ``ll.audio(...)``; or a list.
    target
        What the decoder has written so far, behind the token with which it starts; or a list.

    Examples
    --------
    >>> import layerlens as ll
    >>> ll.sides("translate English to German: Good morning", "Guten")
    Sides(source='translate English to German: Good morning', target='Guten')
    """
    return Sides(source, target)


def _given(kind: str, given: Any, dims: int, rate: int | None = None) -> Given:
    one = _is_one(given, dims)
    items = (given,) if one else tuple(given)
    if not items:
        raise InputError(f"ll.{kind} was given nothing: give at least one.")
    for item in items:
        if not _is_one(item, dims):
            raise InputError(
                f"ll.{kind} takes paths, arrays or pictures, not {type(item).__name__}."
            )
    return Given(kind, items, one, rate)


def _is_one(given: Any, dims: int) -> bool:
    """Whether this is one picture or sound, not several."""
    if isinstance(given, str | os.PathLike) or hasattr(given, "getbands"):
        return True
    return 0 < int(getattr(given, "ndim", 0)) < dims


def _name(item: Any) -> str:
    if isinstance(item, str | os.PathLike):
        return Path(item).name
    if hasattr(item, "getbands"):
        return f"{item.height} x {item.width}"
    if item.ndim == 1:
        return f"{len(item)} samples"
    shape = item.shape[1:] if _is_fed(item) else item.shape[:2]
    return " x ".join(map(str, shape))


def _is_fed(item: Any) -> bool:
    """Whether an array is what a model takes already, ``[channel, height, width]`` of floats."""
    array = np.asarray(item)
    return array.ndim == 3 and array.dtype.kind == "f" and array.shape[0] in (1, 3)


def pictures(items: Sequence[Any]) -> list[Any]:
    """Each as a ``PIL.Image``, or as an array that a model takes already.

    Raises
    ------
    InputError
        If a file is no picture, or an array has another form.
    """
    return [_picture(item) for item in items]


def _picture(item: Any) -> Any:
    from PIL import Image

    if isinstance(item, str | os.PathLike):
        try:
            with Image.open(item) as opened:
                return opened.convert("RGB")
        except (OSError, ValueError) as error:
            raise InputError(
                f"{os.fspath(item)} is no picture that can be read: {error}."
            ) from error
    if hasattr(item, "getbands"):
        return item.convert("RGB")
    if _is_fed(item):
        return item
    array = np.asarray(item)
    if array.dtype.kind == "f" and array.size and array.min() >= 0 and array.max() <= 1:
        array = (array * 255).round()
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3)):
        raise InputError(
            f"A picture is an array [height, width] or [height, width, 3], not {array.shape}."
        )
    return Image.fromarray(array.astype(np.uint8).squeeze()).convert("RGB")


def samples(item: Any, rate: int | None, wanted: int) -> np.ndarray:
    """``[sample]`` float32 of a sound.

    Raises
    ------
    InputError
        If a file is no ``.wav``, or has another rate than the model takes.
    """
    found = rate
    if isinstance(item, str | os.PathLike):
        item, found = _wav(item)
    array = np.asarray(item, dtype=np.float32).squeeze()
    if array.ndim != 1:
        raise InputError(f"A sound is an array [sample] of one channel, not {array.shape}.")
    if found is not None and found != wanted:
        raise InputError(
            f"The sound has {found} samples a second, but the model takes {wanted}: resample it."
        )
    return array


def _wav(path: str | os.PathLike[str]) -> tuple[np.ndarray, int]:
    import wave

    try:
        with wave.open(os.fspath(path)) as file:
            width, channels = file.getsampwidth(), file.getnchannels()
            data, rate = file.readframes(file.getnframes()), file.getframerate()
    except (OSError, EOFError, wave.Error) as error:
        raise InputError(f"{os.fspath(path)} is no .wav file that can be read: {error}.") from error
    if width not in (2, 4):
        raise InputError(f"{os.fspath(path)} has {8 * width} bits a sample: give one of 16 or 32.")
    array = np.frombuffer(data, dtype=f"<i{width}").reshape(-1, channels).mean(1)
    return array / float(2 ** (8 * width - 1)), rate
