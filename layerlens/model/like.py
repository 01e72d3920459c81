"""Two models (or checkpoints) of one shape that read the same tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerlens.errors import InputError
from layerlens.model.required import require_model

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def require_like(model: LensModel, other: Any, tokens: Tokens) -> LensModel:
    """The other model, where its states can be held against this model's one by one.

    Raises
    ------
    InputError
        It is no model, or has another width, another number of blocks, or other tokens.
    """
    require_model(other, "other")
    found: LensModel = other
    for what, mine, theirs in (
        ("a stream of width", model.d_model, found.d_model),
        ("this many blocks:", model.n_layers, found.n_layers),
    ):
        if mine != theirs:
            raise InputError(
                f"{model.name} has {what} {mine} and {found.name} {theirs}: states belong to each "
                "other only between models of the same shape."
            )
    return require_same_tokens(model, found, tokens)


def require_same_tokens(model: LensModel, other: Any, tokens: Tokens) -> LensModel:
    """The other model, where both read the same tokens.

    Raises
    ------
    InputError
        It is no model, or has other tokens.
    """
    require_model(other, "other")
    found: LensModel = other
    ids = sorted(set(tokens.ids[tokens.mask].tolist()))
    unknown = [i for i in ids if i >= found.d_vocab_in]
    if unknown:
        raise InputError(f"{found.name} has no token {unknown[0]}: both models need the same ids.")
    if model.tokenizer is None or found.tokenizer is None:
        return found
    for i in ids:
        if (own := model.token_string(i)) != (foreign := found.token_string(i)):
            raise InputError(
                f"Token {i} is {own!r} in {model.name} and {foreign!r} in {found.name}: both "
                "models need the same tokens."
            )
    return found


def require_same_head(model: LensModel, other: LensModel) -> None:
    """Raise InputError where what two models predict cannot be compared token by token."""
    require_head(other)
    if model.d_vocab != other.d_vocab:
        raise InputError(
            f"{other.name} has {other.d_vocab} tokens and {model.name} {model.d_vocab}: their "
            "predictions can be compared only over the same vocabulary."
        )


def require_head(other: LensModel) -> None:
    """Raise InputError where the other model predicts no tokens."""
    if other.anatomy.head is None:
        raise InputError(f"{other.name} has no language-model head to compare with.")
