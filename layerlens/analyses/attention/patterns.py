"""The attention of every head, and what it amounts to: weights, lengths, scores, roles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layerlens.analyses.attention.part import KOBAYASHI, VARIABLES, Part, kept_bytes
from layerlens.analyses.attention.roles import ROLES
from layerlens.analyses.attention.weightings import (
    chosen_weightings,
    possible,
    require_possible,
)
from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.errors import InputError, MemoryLimitError, ModelError
from layerlens.model.abilities import ABILITIES
from layerlens.model.feed import ANY_KIND
from layerlens.model.lensmodel import LensModel
from layerlens.model.sites import Site
from layerlens.result.attention import OTHER, WEIGHTINGS

if TYPE_CHECKING:
    from layerlens.model.text import Tokens

DEFAULT_LIMIT = 400_000_000
_WORKING = 4  # arrays of one layer that are there at once beside those that are kept


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    layers: Any,
    weighting: str | Sequence[str],
    other: Any,
    memory_limit: int,
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    texts, length = tokens.ids.shape
    beside = other is not None
    names = chosen_weightings(weighting)
    chosen = attention_layers(model, layers)
    # The second text is not read yet; it is taken to be as long as the first.
    kept = kept_bytes(model, chosen, length, texts, len(names)) * (1 + beside)
    layer = 4 * model.n_heads * length * length * _WORKING
    read = texts * len(chosen) * (1 + beside)
    operations = 4.0 * read * length * length * model.d_model
    if "norm" in names:  # each head alone through the whole projection
        layer += 4 * length * model.n_heads * model.d_model
        operations += 2.0 * read * length * model.n_heads * model.d_model**2
    rows = texts * (1 + beside)
    return Work(1 + beside, rows, kept + layer, operations=operations)


@analysis(
    name="attention",
    question="Which tokens does each head look at, and what does it do there?",
    source="Vaswani et al. (2017), Attention Is All You Need; values and norms: " + KOBAYASHI,
    cost="1 pass a text, half as long again for the patterns",
    view="attention",
    lead="Each square is one head: a row is a token that looks, a column a token that is "
    "looked at, and a stronger colour is more of its attention.",
    reads=ANY_KIND,
    variables=VARIABLES,
    work=count_work,
    needs=("attention",),
)
def attention(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    layers: int | slice | Sequence[int] | None = None,
    weighting: str | Sequence[str] = ("pattern",),
    other: Any = None,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Read the attention of every head, and measure what kind of head it is in this text.

    ``pattern[layer, head, query, key]`` is how much of what the head reads for the token `query`
    comes from the token `key`; a row sums to 1, or to less where the model has a learnt sink that
    is no token. Heads are query heads; ``kv_group`` says which of them share keys and values.

    Parameters
    ----------
    layers
        Which blocks, as ``model.layers`` takes; None for all that have attention.
    weighting
        What else to keep beside ``"pattern"``: ``"value"``, the weight times the length of the
        value that it brings; ``"norm"``, the length of what the head moves from the key into the
        stream at the query; ``"scores"``, before the softmax. One name or several.
    other
        To lie beside it: a second text for the same model, or a second model, which reads the
        same text.
    memory_limit
        Bytes of working memory above the model's own.

    Notes
    -----
    Six numbers a head say what it does in this text, each a share of its attention, over all
    queries but the first: ``previous_token``; ``induction`` (to what followed an earlier
    occurrence) and ``duplicate_token`` (to an earlier occurrence), over the queries that have
    one; ``sink_mass`` (to the first token); ``local`` (to itself and the 3 before, over queries
    that see more); ``delimiter`` (to special tokens and punctuation, not the first). NaN where no
    query counts. ``ll.head_scores`` has the standard test on random tokens.

    Where a norm stands behind the attention's projection (sandwich norms), ``norm_weighted`` is
    the length before it. Names of what belongs to `other` begin with ``other_``.

    Raises
    ------
    InputError
        An option does not fit.
    MemoryLimitError
        The arrays would be larger than the limit; says how many layers fit.
    ModelError
        The model has not what a weighting is made of.
    SiteError
        A layer that was asked for has no attention that can be read.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.attention(model, "cat dog owl cat dog", weighting="norm")
    >>> found.data.pattern.dims
    ('layer', 'head', 'query', 'key')
    >>> bool(found.data.induction.max() > 0.5)
    True
    """
    names = chosen_weightings(weighting)
    chosen = attention_layers(model, layers)
    require_possible(model, chosen, names)
    second = None if other is None else _second(job, model, tokens, other)
    parts = [Part(job, model, tokens, chosen, names)]
    if second is not None:
        theirs = attention_layers(second[0], None if second[0] is not model else layers)
        require_possible(second[0], theirs, names)
        parts.append(Part(job, *second, theirs, names, prefix=OTHER))
    _require_memory(parts, memory_limit)
    _declare(job, parts, names)
    job.note(weightings=json.dumps(names), **_about(parts))
    total = sum(part.steps for part in parts)
    done = 0
    for part in parts:
        done = part.run(done, total)
    job.note(passes=sum(len(part.tokens.ids) for part in parts))
    for part in parts:
        part.check()


def attention_layers(model: LensModel, layers: Any) -> list[int]:
    """Return the numbers of the blocks whose attention is read.

    Raises
    ------
    SiteError
        One was asked for that has none; says why.
    """
    blocks = model.anatomy.blocks
    chosen = model.layers(layers)
    if layers is None:
        return [layer for layer in chosen if blocks[layer].attention]
    for layer in chosen:
        if not blocks[layer].attention:
            model.anatomy.tap(Site("pattern", layer))  # raises, and says why
    return chosen


def _second(job: Job, model: LensModel, tokens: Tokens, other: Any) -> tuple[LensModel, Tokens]:
    """What lies beside: the model that is asked, and what it reads."""
    if not tokens.single:
        raise InputError(
            f"other= lies beside one text, and {len(tokens.ids)} were given: give one of them."
        )
    if not isinstance(other, LensModel):
        read = job.tokens(other)
        if not read.single:
            raise InputError(f"other= is one text beside the first, not {len(read.ids)}.")
        return model, read
    if lack := ABILITIES["attention"](other):
        raise ModelError(f"other= is {other.name}, which {lack}.")
    text = tokens.texts[0] if other.tokenizer is not None else None
    return other, job.tokens(tokens.ids[0].tolist() if text is None else text, other, like=tokens)


def _about(parts: Sequence[Part]) -> dict[str, Any]:
    """Attributes that say what was read."""
    first = parts[0].model
    found: dict[str, Any] = {
        "n_heads": first.n_heads,
        "weightings_possible": json.dumps(possible(first, parts[0].layers)),
    }
    if len(parts) == 1:
        return found
    model, tokens = parts[1].model, parts[1].tokens
    text = tokens.texts[0] or "".join(tokens.strings[0])
    kind = "text" if model is first else "model"
    name = f"{model.name} (other)" if model.name == first.name else model.name
    return {
        **found,
        "other": kind,
        "other_label": text if kind == "text" else name,
        "other_text": text,
        "other_model": model.name,
        "other_load": model.load_code,
        "other_n_heads": model.n_heads,
    }


def _require_memory(parts: Sequence[Part], memory_limit: int) -> None:
    needed = sum(part.bytes for part in parts)
    if needed <= memory_limit:
        return
    layers = max(len(part.layers) for part in parts)
    fit = int(layers * memory_limit / needed)
    some = f"{fit} layers" if fit > 1 else "1 layer"
    advice = f"choose at most {some} with layers=" if fit else "give a shorter text"
    raise MemoryLimitError(
        f"The attention of {layers} layers over {parts[0].tokens.ids.shape[1]} tokens takes "
        f"{needed / 1e6:.0f} MB, but memory_limit is {memory_limit / 1e6:.0f} MB: {advice}, or "
        f"set memory_limit={needed}."
    )


def _declare(job: Job, parts: Sequence[Part], names: Sequence[str]) -> None:
    sizes: dict[str, int] = {}
    coords: dict[str, tuple[tuple[str, ...], Any]] = {}
    wanted = []
    for part in parts:
        sizes |= part.sizes()
        coords |= part.coords()
        wanted += [part.prefix + WEIGHTINGS[name] for name in names]
        wanted += [part.prefix + name for name in ROLES]
    job.declare(sizes, coords, only=wanted)
