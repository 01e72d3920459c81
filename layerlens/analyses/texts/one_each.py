"""Options that several analyses read alike: one value for each text, the blocks meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


def one_each(given: Any, texts: int, name: str) -> list[Any]:
    """One value for each text.

    Parameters
    ----------
    given
        A value for all texts, or a list with one for each.
    name
        The option, for the error.

    Raises
    ------
    InputError
        When a list has not one entry for each text.

    Examples
    --------
    >>> one_each(" Paris", 2, "answer")
    [' Paris', ' Paris']
    """
    if not isinstance(given, list | tuple):
        return [given] * texts
    if len(given) != texts:
        raise InputError(
            f"{name} has {len(given)} entries for {texts} texts: give one value for all of them, "
            "or one each."
        )
    return list(given)


def chosen_layers(model: LensModel, layers: int | Sequence[int] | None) -> list[int]:
    """Numbers of the blocks that are meant, in order, each once.

    Parameters
    ----------
    layers
        A number or several, negative from the end; None for all.

    Raises
    ------
    InputError
        When one does not exist, or none is named.
    """
    if layers is None:
        return list(range(model.n_layers))
    named = [layers] if isinstance(layers, int) else [int(layer) for layer in layers]
    for layer in named:
        if not -model.n_layers <= layer < model.n_layers:
            raise InputError(
                f"Layer {layer} does not exist: the model has layers 0 to {model.n_layers - 1}."
            )
    if not named:
        raise InputError("layers is empty: name at least one block.")
    return sorted({layer % model.n_layers for layer in named})
