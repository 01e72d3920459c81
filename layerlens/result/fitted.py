"""What an analysis learned (translators of a lens, probes, a dictionary), to be used by another."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from layerlens.errors import InputError, ResultError
from layerlens.model.fingerprint import fingerprint
from layerlens.result.checks import Checks
from layerlens.result.files import checked_path, read_bytes, write_bytes

if TYPE_CHECKING:
    import os

    from layerlens.model.lensmodel import LensModel

FORMAT = 1
"""Version of the file format; a reader refuses what is newer than itself."""
SUFFIX = ".safetensors"
MOST_SHOWN = 8
"""Arrays that are listed one by one."""
_ABOUT = "layerlens_fitted"

Scores = Mapping[str, Mapping[str, float]]
"""Name of a side (``train``, ``test``) to names of measures to values."""


@dataclass(frozen=True)
class ModelFacts:
    """Which model something was fitted on.

    Attributes
    ----------
    name, family, dtype, n_layers, d_model
        As the model says.
    weights
        Fingerprint of its parameters.
    """

    name: str
    family: str
    dtype: str
    n_layers: int
    d_model: int
    weights: str

    @classmethod
    def of(cls, model: LensModel) -> ModelFacts:
        """Facts of a model that is loaded."""
        dtype = str(model.dtype).removeprefix("torch.")
        sizes = (model.n_layers, model.d_model)
        return cls(model.name, model.anatomy.family, dtype, *sizes, fingerprint(model))

    def __str__(self) -> str:
        return f"{self.name} ({self.family}, {self.dtype})"


@dataclass(frozen=True, eq=False, repr=False)
class Fitted:
    """Arrays that an analysis learned, with all that is needed to use them rightly.

    It is read by name, ``fitted["weight"]``, is kept by :meth:`save`, comes back by
    ``ll.open(path)``, and is given to the analyses that use it.

    Attributes
    ----------
    kind
        What it is, such as ``"tuned_lens"``.
    arrays
        Name to tensor, on the CPU.
    model
        The model that it belongs to.
    data
        Fingerprint of the tokens that it was learned from.
    options
        Of the call that learned it.
    scores
        Side (``train``, ``test``) to measures.
    checks
        What was verified.
    call
        The call that learned it.
    created
        When, as ISO 8601.
    complete
        Whether learning came to its end.
    versions
        Of the packages that took part.
    path
        The file that it was opened from or saved to; None while it is in memory only.
    """

    kind: str
    arrays: Mapping[str, Tensor]
    model: ModelFacts
    data: str
    options: Mapping[str, Any] = field(default_factory=dict)
    scores: Scores = field(default_factory=dict)
    checks: Checks = field(default_factory=Checks)
    call: str = ""
    created: str = ""
    complete: bool = True
    versions: Mapping[str, str] = field(default_factory=dict)
    path: Path | None = None

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.arrays:
            raise InputError(f"This {self.kind} has no {name!r}: it has {', '.join(self.arrays)}.")
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __contains__(self, name: object) -> bool:
        return name in self.arrays

    @property
    def code(self) -> str:
        """The Python that gives it again: opens the file, or learns it once more."""
        return f"ll.open({str(self.path)!r})" if self.path else self.call

    def require(self, model: LensModel, kind: str | None = None) -> None:
        """Refuse to be used with another model, or as something else.

        Parameters
        ----------
        kind
            What it has to be; None for anything.

        Raises
        ------
        InputError
            In words: how that model differs from the one that it was fitted on.
        """
        if kind is not None and kind != self.kind:
            raise InputError(f"A {kind} is needed, but this is a {self.kind}: give one of these.")
        here, mine = ModelFacts.of(model), self.model
        if here.weights == mine.weights:
            return
        wrong = "has other weights"
        if (here.n_layers, here.d_model) != (mine.n_layers, mine.d_model):
            wrong = f"has {here.n_layers} blocks of width {here.d_model}"
            wrong += f", not {mine.n_layers} of {mine.d_model}"
        elif here.dtype != mine.dtype:
            wrong = f"is in {here.dtype}, not {mine.dtype}"
        raise InputError(
            f"This {self.kind} was fitted on {mine}, and {here.name} {wrong}: load that model, or "
            "fit it again on this one."
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a safetensors file that ``ll.open`` reads back; return its path.

        Raises
        ------
        ResultError
            The name does not end in ``.safetensors``, or the file could not be written; an older
            file of that name is as it was.
        """
        target = checked_path(path, SUFFIX)
        about = {name: _stored(getattr(self, name)) for name in _TOLD}
        metadata = {_ABOUT: json.dumps({"format": FORMAT, "arrays": list(self.arrays), **about})}
        return write_bytes(target, save(dict(self.arrays), metadata))

    def identical(self, other: Fitted) -> bool:
        """Whether `other` has the same arrays and says the same, to the last bit."""
        told = all(_stored(getattr(self, n)) == _stored(getattr(other, n)) for n in _TOLD)
        return (
            told
            and list(self.arrays) == list(other.arrays)
            and all(
                array.dtype == other.arrays[name].dtype
                and array.shape == other.arrays[name].shape
                and torch.equal(_bytes(array), _bytes(other.arrays[name]))
                for name, array in self.arrays.items()
            )
        )

    def __repr__(self) -> str:
        return "\n".join([f"{self.kind} of {self.model}", *(f"{a}: {b}" for a, b in self._rows())])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(words)}</td></tr>"
            for name, words in [("model", str(self.model)), *self._rows()]
        )
        return f"<table><caption>{html.escape(self.kind)}</caption><tbody>{rows}</tbody></table>"

    def _rows(self) -> list[tuple[str, str]]:
        """What is shown, by name."""
        arrays = [
            f"{name} {list(array.shape)} {str(array.dtype).removeprefix('torch.')}"
            for name, array in self.arrays.items()
        ]
        if len(arrays) > MOST_SHOWN:
            arrays = [arrays[0], f"... {len(arrays)} in all ...", arrays[-1]]
        rows = [("arrays", ", ".join(arrays))]
        rows += [(side, ", ".join(_in_short(measures))) for side, measures in self.scores.items()]
        failed = [check.name for check in self.checks if not check.ok]
        good = f"{len(self.checks)} ok" if self.checks else "none"
        rows.append(("checks", f"not ok: {', '.join(failed)}" if failed else good))
        if not self.complete:
            rows.append(("not complete", "learning was stopped before its end"))
        return rows


_TOLD = [f.name for f in fields(Fitted) if f.name not in ("arrays", "path")]


def as_arrays(given: Mapping[str, Any]) -> dict[str, Tensor]:
    """Copies of tensors or NumPy arrays, on the CPU and each with memory of its own.

    Raises
    ------
    InputError
        When there is none, or one is no array.
    """
    if not given:
        raise InputError("Nothing was learned: give at least one array.")
    for name, array in given.items():
        if not isinstance(array, Tensor | np.ndarray):
            raise InputError(f"{name} is a {type(array).__name__}; expected an array or a tensor.")
    return {
        name: torch.as_tensor(array).detach().to("cpu", copy=True).contiguous()
        for name, array in given.items()
    }


def _in_short(measures: Mapping[str, float]) -> list[str]:
    """Each measure with its value; one that many places have (``kl/7_post``), with its range."""
    grouped: dict[str, list[float]] = {}
    for name, value in measures.items():
        grouped.setdefault(name.split("/")[0], []).append(value)
    return [
        f"{name} {min(values):.4g}" + f" to {max(values):.4g}" * (len(values) > 1)
        for name, values in grouped.items()
    ]


def _bytes(array: Tensor) -> Tensor:
    """What it is in memory, where NaN equals itself."""
    return array.reshape(-1).view(torch.uint8)


def open_fitted(path: str | os.PathLike[str]) -> Fitted:
    """Open what :meth:`Fitted.save` wrote.

    Raises
    ------
    ResultError
        There is no such file, it is damaged, it is none of ours, or a newer version wrote it.
    """
    content = read_bytes(path)
    try:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        arrays = load(content)
    except (SafetensorError, ValueError) as error:
        raise ResultError(
            f"'{path}' is not a safetensors file, or it is damaged; open a file that Fitted.save "
            "wrote."
        ) from error
    told = header.get("__metadata__", {}).get(_ABOUT)
    if told is None:
        raise ResultError(f"'{path}' is a safetensors file, but nothing that layerlens fitted.")
    try:
        return replace(_told(json.loads(told), arrays), path=Path(path).expanduser())
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ResultError(f"'{path}' is damaged: what it says of itself is {error}.") from error


def _stored(value: Any) -> Any:
    """As it stands in JSON."""
    if isinstance(value, Checks):
        return value.to_json()
    return asdict(value) if isinstance(value, ModelFacts) else value


def _told(about: dict[str, Any], arrays: Mapping[str, Tensor]) -> Fitted:
    """Put together what a file says, each of its type."""
    if about.pop("format") > FORMAT:
        raise ValueError("of a newer format, so layerlens has to be updated to open it")
    kinds = {"options": dict, "scores": dict, "versions": dict, "complete": bool, "model": dict}
    for name in _TOLD:
        if not isinstance(about[name], kinds.get(name, str)):
            raise ValueError(f"no {kinds.get(name, str).__name__} for {name!r}")
    # The file has them in an order of its own.
    arrays = {name: arrays[name] for name in about.pop("arrays")}
    about["checks"] = Checks.from_json(about["checks"])
    about["model"] = ModelFacts(**about["model"])
    return Fitted(arrays=arrays, **about)
