"""What a row of ``skip_layers`` opens: the next token with layers left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from torch import Tensor

from layerlens.analyses.answers.next_tokens import chances, next_token_table
from layerlens.analyses.contract.cells import Opened, Place
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.depth.skip_text import skip_texts
from layerlens.errors import InputError
from layerlens.run.answer_place import answer_place
from layerlens.run.edits import Edit, edit
from layerlens.run.replay import capture_calls
from layerlens.run.skip import skip_hooks
from layerlens.run.values import source

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def open_skipped(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    part: str,
    mode: str,
    effect: str,
    cuts: int | Sequence[int],
    keep_first: bool,
    seed: int,
    **_: Any,
) -> Opened:
    """Run the first text as it is and with the layers left out, before its first cut if any."""
    skipped = _skipped(place, mode)
    [text, *others] = skip_texts(model, tokens, None, effect, cuts, keep_first, seed)
    changed = text.windows[0].changed
    conditions = {"as it is": (), "left out": skipped}
    found = {}
    for name, layers in conditions.items():
        job.tick()
        found[name] = chances(model, _final(model, text.tokens, layers, part, changed))
    named = ", ".join(map(str, skipped))
    of_many = f", first of {len(others) + 1} texts" if others else ""
    what = {"block": "layer", "attn": "the attention of", "mlp": "the MLP of"}[part]
    return Opened(
        title=f"The next token without {what} {named}{of_many}",
        code=place.run_with(_edits(place, skipped, part, effect, keep_first, bool(others))),
        tables=[next_token_table(model, found)],
    )


def _skipped(place: Place, mode: str) -> tuple[int, ...]:
    """Which layers a cell is about: a row by its name, or two layers and those between them."""
    if "skipped" in place.labels:
        ends = [int(word) for word in re.findall(r"\d+", str(place.labels["skipped"]))]
    elif "layer_other" in place.labels:
        ends = sorted({int(place.need("layer")), int(place.labels["layer_other"])})
    else:
        raise InputError(f"A cell of {place.array} leaves no layer out: open one of effect.")
    return tuple(range(ends[0], ends[-1] + 1)) if mode == "ranges" else tuple(ends)


def _final(
    model: LensModel, tokens: Tokens, skipped: Sequence[int], part: str, at: tuple[int, ...]
) -> Tensor:
    """State after the last block where the text is answered, with layers left out."""
    states: list[Tensor] = []
    with ExitStack() as stack:
        skip_hooks(model, skipped, part, at, stack)
        capture_calls(model, tokens, lambda _, state: states.append(state), logits=None)
    return states[-1][0, answer_place(model, tokens)]


def _edits(
    place: Place,
    skipped: Sequence[int],
    part: str,
    effect: str,
    keep_first: bool,
    several: bool,
) -> list[Edit]:
    """The same as edits; none where no edit says just that."""
    given = place.one_text
    if effect != "all" or several or given is None:
        return []
    position = slice(1, None) if keep_first else None
    if part != "block":
        site = "attn_out" if part == "attn" else "mlp_out"
        return [edit(f"{site}.{layer}", "zero", position=position) for layer in skipped]
    if len(skipped) > 1:
        return []
    [layer] = skipped
    before = source(given, f"resid_pre.{layer}", position)
    return [edit(f"resid_post.{layer}", "set", before, position=position)]
