"""Generate text, with edits at the prompt, at chosen generated tokens, or always."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerlens.errors import InputError, ModelError
from layerlens.model.conventions import MASK, TOKEN_IDS
from layerlens.model.integers import is_whole
from layerlens.model.text import Tokens
from layerlens.run.edit_lists import as_edits
from layerlens.run.editing import editing
from layerlens.run.edits import Edit

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


@dataclass(frozen=True, repr=False)
class Generation:
    """What a model has written after a prompt.

    The properties are one list or string for one text, and a list of them for several.

    Attributes
    ----------
    prompt
        What was fed; several texts are padded on the left.
    new
        Ids of the new tokens of each row, up to and with the end-of-text token.
    prompts, continuations
        Text of each row's prompt and of what follows it.
    edits
        What was changed on the way.
    applied
        For each edit, the columns that it was applied at; generated token n is at column
        prompt length + n.
    raw
        What ``model.hf.generate`` returned.
    """

    prompt: Tokens
    new: tuple[tuple[int, ...], ...]
    prompts: tuple[str, ...]
    continuations: tuple[str, ...]
    edits: tuple[Edit, ...]
    applied: tuple[tuple[int, ...], ...]
    raw: Any

    @property
    def single(self) -> bool:
        """Whether there is one text only."""
        return self.prompt.single and len(self.new) == 1

    @property
    def new_ids(self) -> Any:
        """Ids of the new tokens."""
        return list(self.new[0]) if self.single else [list(row) for row in self.new]

    @property
    def ids(self) -> Any:
        """Ids of the prompt and of the new tokens."""
        repeats = len(self.new) // len(self.prompt.ids)
        rows = [
            ids[mask].tolist() for ids, mask in zip(self.prompt.ids, self.prompt.mask, strict=True)
        ]
        whole = [[*rows[place // repeats], *new] for place, new in enumerate(self.new)]
        return whole[0] if self.single else whole

    @property
    def new_text(self) -> Any:
        """Text of the new tokens."""
        return self.continuations[0] if self.single else list(self.continuations)

    @property
    def text(self) -> Any:
        """Text of the prompt and of the new tokens."""
        whole = [one + new for one, new in zip(self.prompts, self.continuations, strict=True)]
        return whole[0] if self.single else whole

    def __repr__(self) -> str:
        pairs = list(zip(self.prompts, self.continuations, strict=True))
        return "\n".join(f"Generation({prompt!r} -> {new!r})" for prompt, new in pairs)


def generate(
    model: LensModel,
    text: Any,
    max_new_tokens: int = 20,
    edits: Edit | Iterable[Edit] = (),
    *,
    add_bos: bool | None = None,
    watch: AbstractContextManager[object] | None = None,
    **generate_kwargs: Any,
) -> Generation:
    """Generate with edits; see ``LensModel.generate``.

    ``watch`` is entered once the edits are in place, for hooks that have to see what they changed.
    """
    found = as_edits(edits)
    tokens = left_padded(model, text, add_bos)
    _require_room(model, tokens, max_new_tokens, found)
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "pad_token_id": _pad(model)}
    if not generate_kwargs.get("do_sample"):
        # Greedy unless asked otherwise; a checkpoint's own settings for sampling would only warn.
        options |= {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    options |= generate_kwargs
    hf: Any = model.hf
    with editing(model, found, tokens) as session, watch or nullcontext():
        fed = {TOKEN_IDS: tokens.ids.to(model.device), MASK: tokens.mask.long().to(model.device)}
        try:
            raw: Any = hf.generate(**fed, **options)
        except InputError:
            raise
        except ValueError as error:  # how generate refuses its options
            raise InputError(f"generate refused what it was given: {error}") from error
    sequences: Tensor = getattr(raw, "sequences", raw)
    ends = end_ids(model, options)
    rows = [_until(row, ends) for row in sequences[:, tokens.ids.shape[1] :].tolist()]
    repeats = len(rows) // len(tokens.ids)
    prompts = ["".join(strings) for strings in tokens.strings for _ in range(repeats)]
    return Generation(
        prompt=tokens,
        new=tuple(map(tuple, rows)),
        prompts=tuple(prompts),
        continuations=tuple("".join(model.vocabulary.split(row)[0]) for row in rows),
        edits=found,
        applied=tuple(tuple(sorted(columns)) for columns in session.applied),
        raw=raw,
    )


def left_padded(model: LensModel, text: Any, add_bos: bool | None = None) -> Tokens:
    """Tokens whose last column is real in every row, as generating needs it."""
    tokens = model.tokens(text, add_bos=add_bos, padding_side="left")
    if bool(tokens.mask[:, -1].all()):
        return tokens
    rows = [ids[mask].tolist() for ids, mask in zip(tokens.ids, tokens.mask, strict=True)]
    return model.tokens(rows, padding_side="left")


def _require_room(model: LensModel, tokens: Tokens, new: int, edits: Sequence[Edit]) -> None:
    if not model.hf.can_generate():
        raise ModelError(
            f"{model.name} cannot generate: load it with a class that has a language-model head, "
            "such as AutoModelForCausalLM."
        )
    if not is_whole(new) or new < 1:
        raise InputError(f"max_new_tokens is {new!r}; expected a whole number from 1.")
    limit, length = model.max_positions, tokens.ids.shape[1]
    if limit is not None and length + new - 1 > limit:
        raise InputError(
            f"The prompt has {length} tokens and {new} more were asked for, but the model takes at "
            f"most {limit}: shorten the prompt or lower max_new_tokens."
        )
    for edit in edits:
        late = [step for step in edit.steps or () if isinstance(step, int) and step > new - 2]
        if late:
            raise InputError(
                f"Generated token {late[0]} is never fed back: of {new} new tokens those from 0 to "
                f"{new - 2} are; raise max_new_tokens or name an earlier step."
            )


def _pad(model: LensModel) -> int:
    config = model.hf.generation_config
    ends = config.eos_token_id
    found = [
        config.pad_token_id,
        getattr(model.tokenizer, "pad_token_id", None),
        ends[0] if isinstance(ends, list) else ends,
    ]
    return next((int(index) for index in found if index is not None), 0)


def end_ids(model: LensModel, options: Mapping[str, Any] = MappingProxyType({})) -> set[int]:
    """Ids that end a text, by the model or by what ``generate`` is given."""
    given = options.get("eos_token_id", model.hf.generation_config.eos_token_id)
    if given is None:
        return set()
    found = torch.as_tensor(given).flatten().tolist()
    return {int(index) for index in found}


def _until(row: list[int], ends: set[int]) -> list[int]:
    """A row up to and with its first end-of-text token; the rest is padding."""
    stop = next((place for place, index in enumerate(row) if index in ends), len(row) - 1)
    return row[: stop + 1]
