"""What is taken for granted about transformers although nobody promises it.

A release of transformers may rename an argument or move an attribute. What can be told by
what a thing is, or by what it does, is found that way; the names that are left are here and
nowhere else, each with what happens where it is missing: an error, never a guess.

Seen in transformers 5.23 and 5.24.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import transformers
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, PreTrainedConfig

from layerlens.errors import InputError, ModelError, SiteError

#: Keyword of a causal language model's ``forward`` for the token ids. Missing in a call: an
#: ``InputError``, because edits are placed by tokens.
TOKEN_IDS = "input_ids"
#: Keyword for the padding mask ``[batch, position]``, or for masks that the caller made. Missing
#: in a call: every token is real. Under another name, masks in a dictionary look like the states
#: of a cache that cannot be counted, which is an ``InputError``.
MASK = "attention_mask"
#: Keywords for the written side of an encoder with a decoder: its token ids, and the mask of their
#: padding. Under another name a model is taken for one of a single side, and its first pass raises.
WRITTEN_IDS = "decoder_input_ids"
WRITTEN_MASK = "decoder_attention_mask"
#: Keyword for how many of the last positions get logits. Under another name the head is given
#: fewer positions than was reckoned with, which is a ``SiteError`` of the edit there; our own
#: passes take the logits of every position, which is slower and as right.
KEPT_LOGITS = "logits_to_keep"
#: Keyword for the position of each token ``[batch, position]``, given where padding lies on the
#: left. Families without it count the mask or need no positions.
POSITIONS = "position_ids"
#: Keywords of a single pass: no cache, and an output with names; those are given that a ``forward``
#: takes. Under another name an output without names has no ``logits``, so that no head is found.
ONE_PASS = {"use_cache": False, "return_dict": True}
#: Attribute of a module that says which layer of the cache is its own. Missing: a path of layers
#: is generated with a cache that fits no layer, and is refused when it is compared with a run
#: without a cache.
LAYER_NUMBER = "layer_idx"
#: Keywords for the residual stream, in blocks that are not given it by place. Under another name
#: it is the first floating tensor; if that is another one, the sums of the proof do not hold.
STREAM = ("hidden_states", "x", "input")

Attention = Callable[..., tuple[Tensor, Tensor | None]]
"""One of transformers' attention functions."""


def call_arguments(hf: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a call of a model by name, those that were given by place among them."""
    if not args:
        return kwargs
    names = list(inspect.signature(hf.forward).parameters)
    return dict(zip(names, args, strict=False)) | kwargs


def token_ids(arguments: Mapping[str, Any]) -> Tensor:
    """The token ids ``[batch, position]`` of a call.

    Raises
    ------
    InputError
        The call was given something else, embeddings for instance.
    """
    ids = arguments.get(TOKEN_IDS)
    if not isinstance(ids, Tensor):
        raise InputError(f"Edits need to know the tokens: call the model with {TOKEN_IDS}.")
    return ids


def kept_positions(arguments: Mapping[str, Any], length: int) -> int:
    """Of how many of the last positions a call wants logits."""
    keep = arguments.get(KEPT_LOGITS)
    return min(keep, length) if isinstance(keep, int) and keep > 0 else length


def is_cache(value: Any) -> bool:
    """Whether this carries on what a model has read before.

    Told by what it is, not by the keyword, which was ``past_key_values`` in 5.23 and is
    ``cache`` in 5.24: transformers' own class, what counts its tokens as that does, or else
    states, floating tensors inside a list, a dictionary or an object (RWKV, xLSTM).
    """
    if isinstance(value, Cache) or callable(getattr(value, "get_seq_length", None)):
        return True
    if isinstance(value, (Tensor, nn.Module)):
        return False
    return _holds_floats(value) or _holds_floats(getattr(value, "__dict__", None))


def _holds_floats(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_floating_point()
    if isinstance(value, Mapping):
        return any(map(_holds_floats, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_holds_floats, value))


def caches(values: Iterable[Any]) -> list[Any]:
    """Those of some arguments, or of what a model gave, that are caches."""
    return [value for value in values if is_cache(value)]


def cache_of(arguments: Mapping[str, Any]) -> Any:
    """The cache that a call was given; None where there is none.

    Raises
    ------
    InputError
        Several things may be it.
    """
    found = caches(value for name, value in arguments.items() if name != MASK)
    found = [value for value in found if isinstance(value, Cache)] or found
    if len(found) > 1:
        kinds = " and a ".join(type(value).__name__ for value in found)
        raise InputError(
            f"A call was given a {kinds}, so it is not clear how many tokens came before: call the "
            "model with one cache."
        )
    return found[0] if found else None


def cached_bytes(cache: Any) -> int:
    """Bytes of the tensors that a cache holds, in lists, dictionaries or attributes."""
    if isinstance(cache, Tensor):
        return int(cache.nbytes)
    if isinstance(cache, Mapping):
        return sum(map(cached_bytes, cache.values()))
    if isinstance(cache, (list, tuple)):
        return sum(map(cached_bytes, cache))
    return 0 if isinstance(cache, nn.Module) else cached_bytes(getattr(cache, "__dict__", ()))


def tokens_in(cache: Any) -> int | None:
    """How many tokens a cache holds; None for states that do not count."""
    if not callable(getattr(cache, "get_seq_length", None)):
        return None
    try:
        return int(cache.get_seq_length())
    except ValueError:  # transformers' word for a cache that holds recurrent states alone
        return None if cache.has_previous_state() else 0


def keys_with(cache: Any, length: int, layer: int) -> tuple[int, int]:
    """How many keys a layer's attention is given, and the column of the first.

    A sliding cache drops what is far behind, a static one brings room for what is to come.

    Parameters
    ----------
    cache
        What the call was given.
    length
        Tokens in the call.
    layer
        Number of the block.

    Raises
    ------
    SiteError
        The cache does not say.
    """
    if cache is None:
        return length, 0
    try:
        count, first = cache.get_mask_sizes(length, layer)
    except (AttributeError, ValueError) as error:
        raise SiteError(
            f"A {type(cache).__name__} does not say which keys it holds for layer {layer}, so k, "
            "v, attn_scores and pattern cannot be edited there: call with use_cache=False."
        ) from error
    return int(count), int(first)


def attention_of(config: Any) -> str | None:
    """Name of the attention function that a configuration chooses; None if it chooses none.

    Raises
    ------
    ModelError
        This release of transformers keeps the choice elsewhere: heads could not be read.
    """
    if not hasattr(PreTrainedConfig, "_attn_implementation"):
        raise _moved("does not say in a configuration which attention function is used")
    name: str | None = getattr(config, "_attn_implementation", None)
    return name


def choose_attention(config: Any, name: str | None) -> None:
    """Make a configuration choose an attention function; those nested in it keep theirs.

    Raises
    ------
    ModelError
        This release of transformers keeps the choice elsewhere.
    """
    # The public setter would also reach into sub-configurations, which copies share.
    config._attn_implementation_internal = name
    if attention_of(config) != name:
        raise _moved("keeps the choice of an attention function somewhere else")


def attention_function(module: nn.Module, name: str) -> Attention:
    """The attention function that a module's own code calls by this name.

    Taken from the file of its family, which may have replaced one of transformers' own.
    """
    code = sys.modules[type(module).__module__]
    shared: Any = getattr(code, "ALL_ATTENTION_FUNCTIONS", None) or AttentionInterface()
    found: Attention | None = shared.get_interface(
        name, getattr(code, "eager_attention_forward", None)
    )
    if found is None:
        raise _moved(f"has no eager attention in {code.__name__}")
    return found


def _moved(what: str) -> ModelError:
    return ModelError(
        f"transformers {transformers.__version__} {what}, so attention cannot be watched: install "
        "a version that layerlens was tested with, see docs/versions.md."
    )
