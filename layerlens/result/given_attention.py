"""Attention that something else computed, as a result that the view can show.

The shapes are those that Hugging Face models hand out and that BertViz, CircuitsVis and inspectus
take: a tuple with ``[1, heads, query, key]`` for each layer, one array of four axes, one of three
(the heads of a layer) or of two (one head).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from layerlens.errors import InputError
from layerlens.model.integers import whole, wholes
from layerlens.result.attention import prefix_of
from layerlens.result.result import Result

if TYPE_CHECKING:
    pass

_SHAPES = (
    "a tuple with [1, heads, query, key] for each layer, or an array of [layers, heads, query, "
    "key], [heads, query, key] or [query, key]"
)

_SPACES = {"Ġ": " ", "▁": " ", "</w>": "", "Ċ": "\n"}
"""How tokenizers write what a token begins or ends with."""


class GivenPart(NamedTuple):
    """Attention between two rows of tokens: ``values`` are ``[layer, head, query, key]``."""

    values: np.ndarray
    tokens: list[str]
    key_tokens: list[str]


def square_of(attention: Any, name: str = "attention") -> np.ndarray:
    """Return attention of any accepted shape as ``[layer, head, query, key]`` float32.

    Parameters
    ----------
    attention : tuple of arrays, or array
        Tensors of torch or NumPy arrays.
    name : str
        What it was given as, for the sentence.

    Raises
    ------
    InputError
        It has another shape, holds several texts, or NaN.
    """
    if isinstance(attention, tuple | list):
        found = _stacked(attention, name)
    else:
        found = _array(attention, name)
        if found.ndim == 5 and found.shape[1] == 1:
            found = found[:, 0]
        if not 2 <= found.ndim <= 4 or not found.size:
            raise InputError(f"{name} has the shape {_shape(found)}; give {_SHAPES}.")
        found = found.reshape((1,) * (4 - found.ndim) + found.shape)
    if not np.isfinite(found).all():
        raise InputError(
            f"{name} holds NaN or infinity, which no attention is: check what it was made from."
        )
    return found


def _stacked(layers: Sequence[Any], name: str) -> np.ndarray:
    if not layers:
        raise InputError(f"{name} is empty; give {_SHAPES}.")
    if all(isinstance(layer, list | tuple) for layer in layers):  # rows of plain numbers
        return square_of(_array(layers, name), name)
    found = []
    for index, layer in enumerate(layers):
        one = f"{name}[{index}]"
        if layer is None:
            raise InputError(
                f"{one} is None: the model handed out no attention there; load it with "
                "attn_implementation='eager', and ask for output_attentions=True."
            )
        values = _array(layer, one)
        if values.ndim == 4 and values.shape[0] != 1:
            raise InputError(
                f"{one} holds {values.shape[0]} texts and one is shown: give those of one text, "
                f"such as tuple(layer[:1] for layer in {name})."
            )
        values = values[0] if values.ndim == 4 else values
        if values.ndim != 3 or not values.size:
            raise InputError(f"{one} has the shape {_shape(values)}; give {_SHAPES}.")
        found.append(values)
    shapes = {values.shape for values in found}
    if len(shapes) > 1:
        said = " and ".join(sorted(map(str, shapes))[:2])
        raise InputError(f"The layers of {name} differ in shape: {said}; give layers of one shape.")
    return np.stack(found)


def _array(given: Any, name: str) -> np.ndarray:
    if hasattr(given, "detach"):
        given = given.detach().float().cpu().numpy()
    try:
        found = np.asarray(given)
        if found.dtype.kind not in "fiub":
            raise TypeError
        return found.astype(np.float32)
    except (TypeError, ValueError):
        raise InputError(f"{name} is {type(given).__name__}; give {_SHAPES}.") from None


def _shape(values: np.ndarray) -> str:
    return f"[{', '.join(map(str, values.shape))}]"


def part_of(
    attention: Any,
    tokens: Sequence[str] | None,
    key_tokens: Sequence[str] | None = None,
    *,
    name: str = "attention",
    pretty: bool = False,
) -> GivenPart:
    """Return one part, its tokens counted.

    Parameters
    ----------
    attention
        In a shape that `square_of` takes.
    tokens, key_tokens : sequence of str, optional
        Those that look and those that are looked at; without them, numbers. Without `key_tokens`,
        both are the same.
    name : str
        What the attention was given as, for the sentence.
    pretty : bool
        Write the marks that tokenizers put before words as spaces.

    Raises
    ------
    InputError
        The shape is none of those, or there are not as many tokens as rows and columns.
    """
    values = square_of(attention, name)
    queries, keys = values.shape[2:]
    if key_tokens is None:
        if tokens is not None and queries != keys:
            raise InputError(
                f"{name} is {queries} x {keys}, so that the tokens that are looked at are others: "
                "give key_tokens too."
            )
        key_tokens = tokens
    rows = _words(tokens, queries, "query", name, pretty=pretty)
    return GivenPart(values, rows, _words(key_tokens, keys, "key", name, pretty=pretty))


def _words(
    tokens: Sequence[str] | None, count: int, axis: str, name: str, *, pretty: bool
) -> list[str]:
    if tokens is None:
        return [str(index) for index in range(count)]
    if not _are_words(tokens):
        raise InputError("tokens is a list of strings, one for each token.")
    if len(tokens) != count:
        raise InputError(
            f"There are {len(tokens)} tokens, but the {axis} axis of {name} has {count}: give one "
            "for each."
        )
    return [_pretty(token) for token in tokens] if pretty else list(tokens)


def _are_words(given: Any) -> bool:
    several = isinstance(given, Sequence | np.ndarray) and not isinstance(given, str | bytes)
    return several and all(isinstance(word, str) for word in given)


def _pretty(token: str) -> str:
    for mark, text in _SPACES.items():
        token = token.replace(mark, text)
    return token


def chosen_layers(values: np.ndarray, layers: Sequence[int] | None) -> list[int]:
    """Return which layers of given attention to keep.

    Raises
    ------
    InputError
        One does not exist.
    """
    count = len(values)
    if layers is None:
        return list(range(count))
    found = list(wholes(layers, "include_layers"))
    wrong = [layer for layer in found if not -count <= layer < count]
    if wrong or not found:
        raise InputError(f"include_layers is {found}; there are {count} layers, from 0.")
    return sorted({layer % count for layer in found})


def given_result(
    parts: Mapping[str, GivenPart],
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[str] = (),
    code: str = "",
) -> Result:
    """Return given attention as a result of ``ll.attention``.

    Parameters
    ----------
    parts : mapping
        Name to part, in the order of the tabs.
    layers : sequence of int, optional
        Numbers of the layers to keep.
    heads : sequence of str
        Names of the heads; without them, numbers.
    code : str
        The call that shows it.
    """
    import xarray as xr

    variables: dict[str, Any] = {}
    coords: dict[str, Any] = {}
    for index, part in enumerate(parts.values()):
        kept = chosen_layers(part.values, layers)
        if not _are_words(heads):
            raise InputError("The names of the heads are a list of strings, one for each head.")
        if len(heads) not in (0, part.values.shape[1]):
            raise InputError(
                f"There are {len(heads)} names of heads and {part.values.shape[1]} heads: give "
                "one for each."
            )
        variables |= _variables(part, kept, prefix_of(index))
        coords |= _coords(part, kept, prefix_of(index))
    first = next(iter(parts.values()))
    text = "".join(first.tokens)
    attrs = {
        "view": "attention",
        "given": 1,
        "parts": json.dumps(list(parts), ensure_ascii=False),
        "head_names": json.dumps(list(heads), ensure_ascii=False),
        "question": "Which tokens does each head look at?",
        "text": text,
        "text_ids": "[]",
        "n_layers": len(first.values),
        "options": "{}",
        "complete": 1,
    }
    return Result("attention", xr.Dataset(variables, coords, attrs), (), code)


def _variables(part: GivenPart, layers: Sequence[int], prefix: str) -> dict[str, Any]:
    axes = tuple(prefix + axis for axis in ("layer", "head", "query", "key"))
    about = {"long_name": "attention weight", "units": "1"}
    return {f"{prefix}pattern": (axes, part.values[list(layers)], about)}


def _coords(part: GivenPart, layers: Sequence[int], prefix: str) -> dict[str, Any]:
    heads, queries, keys = part.values.shape[1:]
    found = {
        "layer": ("layer", np.array(layers, dtype=np.int32)),
        "head": ("head", np.arange(heads, dtype=np.int32)),
        "kv_group": ("head", np.arange(heads, dtype=np.int32)),
        "query": ("query", np.arange(queries, dtype=np.int32)),
        "key": ("key", np.arange(keys, dtype=np.int32)),
        "token": ("query", np.array(part.tokens, dtype=str)),
        "key_token": ("key", np.array(part.key_tokens, dtype=str)),
    }
    return {prefix + name: (prefix + axis, values) for name, (axis, values) in found.items()}


def sentence_parts(part: GivenPart, start: int) -> dict[str, GivenPart]:
    """Return a pair of sentences as parts: all of it, and from each to each.

    Raises
    ------
    InputError
        `start` is no token inside the text.
    """
    values, tokens, keys = part
    start = whole(start, "sentence_b_start")
    if not 0 < start < len(tokens) or values.shape[2] != values.shape[3]:
        raise InputError(
            f"sentence_b_start is {start}; it is the number of the first token of the second "
            f"sentence, from 1 to {len(tokens) - 1}."
        )
    sides = {"A": slice(None, start), "B": slice(start, None)}
    return {
        "all": part,
        **{
            f"{one} → {two}": GivenPart(values[:, :, here, there], tokens[here], keys[there])
            for one, here in sides.items()
            for two, there in sides.items()
        },
    }
