"""What an edit puts in place: numbers, texts, or the activation of another run."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.model.integers import is_whole, whole
from layerlens.model.required import require_model
from layerlens.model.sites import Site, SiteName, parse_site
from layerlens.model.text import Tokens

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


@dataclass(frozen=True, eq=False, repr=False)
class Source:
    """The activation of another run, as the value of an edit; made by :func:`source`.

    Attributes
    ----------
    text
        What is run.
    site
        Where to read; None for the edited site, a site without a layer for the edited layer.
    position
        Where in that text; None for the positions of the edit.
    model
        Another model; None for the edited one.
    add_bos
        As in ``model.tokens``; None: as the edited text was read.
    """

    text: Any
    site: Site | None = None
    position: Any = None
    model: LensModel | None = None
    add_bos: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """The arguments of :func:`source`, fit for JSON; refuses one with a model."""
        if self.model is not None:
            raise InputError(
                f"A source in another model ({self.model.name}) cannot be written as JSON, because "
                "a model cannot be: keep .code instead, or put the activations themselves in."
            )
        site = None if self.site is None else _site_name(self.site)
        given = {
            "text": self.text,
            "site": site,
            "position": encode(self.position),
            "add_bos": self.add_bos,
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def code(self) -> str:
        """The Python that makes it again; another model is loaded by its name."""
        arguments = [literal(self.text)]
        if self.site is not None:
            arguments.append(literal(_site_name(self.site)))
        if self.position is not None:
            arguments.append(f"position={literal(self.position)}")
        if self.model is not None:
            arguments.append(f"model=ll.load({literal(self.model.name)})")
        if self.add_bos is not None:
            arguments.append(f"add_bos={self.add_bos}")
        return f"ll.source({', '.join(arguments)})"

    def __repr__(self) -> str:
        return self.code


def source(
    text: Any,
    site: SiteName | None = None,
    position: Any = None,
    model: LensModel | None = None,
    *,
    add_bos: bool | None = None,
) -> Source:
    """Take the value of an edit from another run.

    Parameters
    ----------
    text
        One text, in any form that ``model.tokens`` takes.
    site
        Where to read it: None for the edited site itself; ``"resid_post.20"`` for another one
        (back-patching: a later state into an earlier layer); ``"resid_pre"`` for another kind
        in the edited layer. A site with a head is read for every edited head.
    position
        Where in that text: as many positions as the edit has, or one for all of them. None
        for the same positions: the same columns where both texts are equally long, else
        what the edit's ``position`` names in this text.
    model
        Another model of equal width; None for the edited one.
    add_bos
        Put the begin token in front of the text, or leave it out; None: as the edited text is
        read.

    Returns
    -------
    Source
        Frozen; to be given to :func:`layerlens.edit` as the value.

    Raises
    ------
    InputError
        If the text or the site is of no known kind.

    Examples
    --------
    >>> from layerlens.run.edits import edit
    >>> edit("resid_pre.2", "set", source("Rome is in", "resid_post.9", -1), position=-1)
    ll.edit('resid_pre.2', 'set', ll.source('Rome is in', 'resid_post.9', position=-1), position=-1)
    """
    if model is not None:
        require_model(model, "model")
    parsed = None if site is None else parse_site(site)
    if add_bos is not None and not isinstance(add_bos, bool):
        raise InputError(f"add_bos is {add_bos!r}; expected True, False or None.")
    return Source(as_texts(text), parsed, as_position(position), model, add_bos)


def as_texts(text: Any, *, or_numbers: bool = False) -> Any:
    """A text, or several, as plain Python that no one else can change.

    Parameters
    ----------
    or_numbers
        Floating numbers are taken too, and become a tensor.
    """
    if isinstance(text, Tokens):
        rows = [row[keep].tolist() for row, keep in zip(text.ids, text.mask, strict=True)]
        return rows[0] if text.single else rows
    if isinstance(text, Tensor | np.ndarray):
        value = torch.as_tensor(text)
        if value.is_floating_point():
            if or_numbers:
                return as_value(value)
            raise InputError("A text is a string or token ids, not a tensor of numbers.")
        return value.tolist()
    if or_numbers and isinstance(text, list | tuple) and isinstance(_first(text), float):
        return as_value(text)
    if not isinstance(text, str | list | tuple) or len(text) == 0:
        raise InputError(f"A text is a string, token ids or chat messages, not {text!r}.")
    return text if isinstance(text, str) else copy.deepcopy(list(text))


def as_position(where: Any) -> Any:
    """A specification of positions that no one else can change."""
    if isinstance(where, range | tuple | list):
        return [as_position(item) for item in where]
    if where is None or isinstance(where, str | slice):
        return where
    if hasattr(where, "tolist") and not is_whole(where):
        return as_position(where.tolist())
    return whole(where, "position")


def _first(nested: Any) -> Any:
    while isinstance(nested, list | tuple) and nested:
        nested = nested[0]
    return nested


def as_value(value: Any) -> float | int | Tensor:
    """A finite number, or a finite tensor; lists are float64, so that no digit is lost."""
    if isinstance(value, bool | int | float | np.number):
        number = value if isinstance(value, int) else float(value)
        if not math.isfinite(number):
            raise InputError(f"The value of an edit is {number}: expected a finite number.")
        return number
    try:
        if isinstance(value, Tensor):
            found = value if value.requires_grad else value.detach().clone()
        elif isinstance(value, np.ndarray):
            found = torch.tensor(value)
        else:
            found = torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"The value of an edit is a number, a list, an array, a tensor or a source, not "
            f"{type(value).__name__} ({error})."
        ) from error
    if found.is_complex() or not bool(torch.isfinite(found).all()):
        raise InputError("The value of an edit holds NaN, infinity or complex numbers.")
    return found


def _site_name(site: Site) -> str:
    """The short name of a site: ``z.7.3``."""
    parts = [site.kind, site.layer, site.head]
    return ".".join(str(part) for part in parts if part is not None)


def encode(value: Any) -> Any:
    """A value or position fit for JSON; see :func:`decode`."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return {"tensor": value.detach().tolist(), "dtype": dtype}
    if isinstance(value, slice):
        return {"slice": [value.start, value.stop, value.step]}
    if isinstance(value, Source):
        return {"source": value.to_dict()}
    if isinstance(value, list):
        return [encode(item) for item in value]
    return value


def decode(value: Any) -> Any:
    """What :func:`encode` was given."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if "tensor" in value:
        dtype = getattr(torch, str(value.get("dtype", "float32")), None)
        if not isinstance(dtype, torch.dtype):
            raise InputError(f"{value.get('dtype')!r} is no dtype of torch.")
        return torch.tensor(value["tensor"], dtype=dtype)
    if "slice" in value:
        return slice(*value["slice"])
    if "source" in value:
        given = {name: decode(item) for name, item in value["source"].items()}
        if not {"text"} <= set(given) <= {"text", "site", "position", "add_bos"}:
            raise InputError("A source in JSON has text, and may have site, position and add_bos.")
        return source(**given)
    return dict(value)  # a chat message


def literal(value: Any) -> str:
    """Python that stands for a value."""
    if isinstance(value, Source):
        return value.code
    if isinstance(value, Tensor):
        return repr(value.detach().tolist())
    return repr(value)
