"""Calls as BertViz and CircuitsVis have them: attention that is there already, in our view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from layerlens.errors import InputError
from layerlens.export.twins import THEMES
from layerlens.model.integers import whole, wholes
from layerlens.result.given_attention import (
    GivenPart,
    given_result,
    part_of,
    sentence_parts,
)
from layerlens.views.attention import AttentionView
from layerlens.views.exports import export

if TYPE_CHECKING:
    from IPython.display import HTML

HtmlAction = Literal["view", "return"]


def head_view(
    attention: Any = None,
    tokens: Sequence[str] | None = None,
    sentence_b_start: int | None = None,
    prettify_tokens: bool = True,
    layer: int | None = None,
    heads: Sequence[int] | None = None,
    encoder_attention: Any = None,
    decoder_attention: Any = None,
    cross_attention: Any = None,
    encoder_tokens: Sequence[str] | None = None,
    decoder_tokens: Sequence[str] | None = None,
    include_layers: Sequence[int] | None = None,
    html_action: HtmlAction = "view",
) -> AttentionView | HTML:
    """Show attention that is there already as lines from token to token, as BertViz does.

    Parameters
    ----------
    attention : tuple of arrays, or array
        ``[1, heads, query, key]`` for each layer, as Hugging Face models hand it out with
        ``output_attentions=True``; or ``[layers, heads, query, key]``, ``[heads, query, key]``,
        ``[query, key]``.
    tokens : sequence of str
        One for each row and column.
    sentence_b_start : int, optional
        Number of the first token of a second sentence: tabs show from which to which.
    prettify_tokens : bool
        Write the marks that tokenizers put before words as spaces.
    layer : int, optional
        The layer to begin with.
    heads : sequence of int, optional
        Those that are on at the beginning; by default all.
    encoder_attention, decoder_attention, cross_attention : optional
        Of an encoder-decoder, each a tab of its own, in the place of `attention`. What
        ``ll.record(model, ll.sides(...), "cross_pattern")["cross_pattern"]`` gives fits, too.
    encoder_tokens, decoder_tokens : sequence of str, optional
        Their tokens.
    include_layers : sequence of int, optional
        Layers to keep; by default all.
    html_action : {"view", "return"}
        A widget, or an object with the HTML of a page by itself as ``data``.

    Returns
    -------
    AttentionView or IPython.display.HTML
        A frozen view: it needs no model.

    Raises
    ------
    InputError
        A shape does not fit; says which and what was expected.

    Examples
    --------
    >>> import numpy as np
    >>> import layerlens as ll
    >>> attention = (np.full((1, 2, 3, 3), 1 / 3),) * 4  # 4 layers of 2 heads
    >>> ll.head_view(attention, ["a", "b", "c"], heads=[1]).meta["layers"]
    [0, 1, 2, 3]
    """
    parts = _parts(
        attention, tokens, sentence_b_start, prettify_tokens,
        encoder_attention, decoder_attention, cross_attention, encoder_tokens, decoder_tokens,
    )  # fmt: skip
    return _show(
        parts, "head_view", html_action, mode="lines", layers=include_layers, layer=layer,
        shown=heads,
    )  # fmt: skip


def model_view(
    attention: Any = None,
    tokens: Sequence[str] | None = None,
    sentence_b_start: int | None = None,
    prettify_tokens: bool = True,
    display_mode: Literal["auto", "light", "dark"] = "auto",
    encoder_attention: Any = None,
    decoder_attention: Any = None,
    cross_attention: Any = None,
    encoder_tokens: Sequence[str] | None = None,
    decoder_tokens: Sequence[str] | None = None,
    include_layers: Sequence[int] | None = None,
    include_heads: Sequence[int] | None = None,
    html_action: HtmlAction = "view",
) -> AttentionView | HTML:
    """Show attention that is there already as grids of heads, as BertViz does.

    Parameters
    ----------
    attention, tokens, sentence_b_start, prettify_tokens
        As in `head_view`.
    display_mode : {"auto", "light", "dark"}
        ``auto`` follows the notebook.
    encoder_attention, decoder_attention, cross_attention, encoder_tokens, decoder_tokens
        As in `head_view`.
    include_layers, include_heads : sequence of int, optional
        Layers and heads to keep; by default all.
    html_action : {"view", "return"}
        A widget, or an object with the HTML of a page by itself as ``data``.

    Returns
    -------
    AttentionView or IPython.display.HTML
        A frozen view: it needs no model.

    Raises
    ------
    InputError
        A shape does not fit; says which and what was expected.

    Examples
    --------
    >>> import numpy as np
    >>> import layerlens as ll
    >>> attention = np.full((4, 2, 3, 3), 1 / 3)
    >>> view = ll.model_view(attention, ["a", "b", "c"], include_layers=[1, 3], include_heads=[1])
    >>> view.meta["layers"], view.meta["head_names"]
    ([1, 3], ['1'])
    """
    parts = _parts(
        attention, tokens, sentence_b_start, prettify_tokens,
        encoder_attention, decoder_attention, cross_attention, encoder_tokens, decoder_tokens,
    )  # fmt: skip
    if display_mode not in THEMES:
        raise InputError(f"display_mode is {display_mode!r}; choose {', '.join(THEMES)}.")
    names: list[str] = []
    if include_heads is not None:
        parts, names = _some_heads(parts, include_heads)
    return _show(
        parts, "model_view", html_action, mode="matrix", layers=include_layers, names=names,
        theme=display_mode,
    )  # fmt: skip


def attention_heads(
    attention: Any,
    tokens: Sequence[str],
    attention_head_names: Sequence[str] | None = None,
    *,
    mask_upper_tri: bool = True,
) -> AttentionView:
    """Show the heads of a layer as small matrices and one of them large, as CircuitsVis does.

    Parameters
    ----------
    attention : array
        ``[heads, query, key]``; weights may be negative.
    tokens : sequence of str
        One for each row and column.
    attention_head_names : sequence of str, optional
        A name for each head; by default its number.
    mask_upper_tri : bool
        Leave out what lies above the diagonal, where a causal model sees nothing.

    Returns
    -------
    AttentionView
        A frozen view: it needs no model.

    Raises
    ------
    InputError
        A shape does not fit; says which and what was expected.

    Examples
    --------
    >>> import numpy as np
    >>> import layerlens as ll
    >>> ll.attention_heads(np.ones((2, 3, 3)), ["a", "b", "c"], ["one", "two"]).meta["head_names"]
    ['one', 'two']
    """
    part = part_of(attention, tokens)
    if mask_upper_tri:
        part = part._replace(values=np.tril(part.values))
    view = _show({"self": part}, "attention_heads", mode="matrix", names=attention_head_names or ())
    assert isinstance(view, AttentionView)
    return view


def attention_patterns(
    tokens: Sequence[str], attention: Any, attention_head_names: Sequence[str] | None = None
) -> AttentionView:
    """Show the heads of a layer beside their text, as CircuitsVis does.

    Parameters
    ----------
    tokens : sequence of str
        One for each row and column.
    attention : array
        ``[heads, query, key]``.
    attention_head_names : sequence of str, optional
        A name for each head; by default its number.

    Returns
    -------
    AttentionView
        A frozen view: it needs no model.

    Raises
    ------
    InputError
        A shape does not fit; says which and what was expected.

    Examples
    --------
    >>> import numpy as np
    >>> import layerlens as ll
    >>> ll.attention_patterns(["a", "b", "c"], np.ones((2, 3, 3))).mode
    'both'
    """
    part = part_of(attention, tokens)
    names = attention_head_names or ()
    view = _show({"self": part}, "attention_patterns", mode="both", names=names)
    assert isinstance(view, AttentionView)
    return view


def _parts(
    attention: Any,
    tokens: Sequence[str] | None,
    sentence_b_start: int | None,
    pretty: bool,
    encoder: Any,
    decoder: Any,
    cross: Any,
    encoder_tokens: Sequence[str] | None,
    decoder_tokens: Sequence[str] | None,
) -> dict[str, GivenPart]:
    """Return the parts of one kind of attention, or of an encoder-decoder."""
    triple = {
        "encoder": (encoder, encoder_tokens, encoder_tokens),
        "decoder": (decoder, decoder_tokens, decoder_tokens),
        "cross": (cross, decoder_tokens, encoder_tokens),
    }
    given = {name: one for name, one in triple.items() if one[0] is not None}
    if (attention is None) == (not given):
        raise InputError(
            "Give attention, or encoder_attention, decoder_attention and cross_attention (some of "
            "them), and not both."
        )
    if attention is not None:
        part = part_of(attention, tokens, pretty=pretty)
        whole_one = {"self": part}
        return whole_one if sentence_b_start is None else sentence_parts(part, sentence_b_start)
    if tokens is not None or sentence_b_start is not None:
        raise InputError(
            "tokens and sentence_b_start belong to attention: give encoder_tokens and "
            "decoder_tokens here."
        )
    return {
        name: part_of(values, rows, keys, name=f"{name}_attention", pretty=pretty)
        for name, (values, rows, keys) in given.items()
    }


def _some_heads(
    parts: dict[str, GivenPart], heads: Sequence[int]
) -> tuple[dict[str, GivenPart], list[str]]:
    chosen = _heads(parts, heads, "include_heads")
    kept = {name: part._replace(values=part.values[:, chosen]) for name, part in parts.items()}
    return kept, [str(head) for head in chosen]


def _heads(parts: dict[str, GivenPart], heads: Sequence[int], name: str) -> list[int]:
    chosen = list(wholes(heads, name))
    count = min(part.values.shape[1] for part in parts.values())
    if not chosen or not all(0 <= head < count for head in chosen):
        raise InputError(f"{name} is {chosen}; there are {count} heads, from 0.")
    return chosen


def _show(
    parts: dict[str, GivenPart],
    name: str,
    html_action: HtmlAction = "view",
    *,
    layers: Sequence[int] | None = None,
    layer: int | None = None,
    shown: Sequence[int] | None = None,
    names: Sequence[str] = (),
    **traits: Any,
) -> AttentionView | HTML:
    if html_action not in ("view", "return"):
        raise InputError(f"html_action is 'view' or 'return', not {html_action!r}.")
    result = given_result(parts, layers=layers, heads=names, code=f"ll.{name}(attention, tokens)")
    kept = result.data["layer"].values.tolist()
    if layer is not None:
        if whole(layer, "layer") not in kept:
            raise InputError(f"layer is {layer}; there are {kept}.")
        traits["layer"] = int(layer)
    if shown is not None:
        traits["shown"] = _heads(parts, shown, "heads")
    view = AttentionView.from_result(result, **traits)
    if html_action == "view":
        return view
    from IPython import display

    page = export(view, "html")[2].decode("utf-8")
    view.close()
    as_html: Any = display.HTML  # it has no annotations
    found: HTML = as_html(page)
    return found
