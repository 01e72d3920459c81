"""One vector of a text: the states of its tokens, pooled as the model's makers do."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerlens.errors import InputError, ModelError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

POOLINGS = ("mean", "first", "last")
"""The mean over tokens, special ones among them; the first token; the last."""
MOST_TOKENS = 4096
"""Tokens in one pass, padding among them."""
_MODES = {
    "mean": ("mean", "pooling_mode_mean_tokens"),
    "first": ("cls", "pooling_mode_cls_token"),
    "last": ("lasttoken", "pooling_mode_lasttoken"),
}
_PARTS = ("Transformer", "Pooling", "Normalize")
"""Modules of sentence-transformers whose vectors have the cosines that are measured here."""


def pooling_of(model: LensModel, given: str | None) -> str:
    """How a model's states become one vector: as it was asked for, else as its folder says.

    Raises
    ------
    InputError
        Another way was asked for, or none and the folder (sentence-transformers'
        ``1_Pooling/config.json``) does not say, or says another.
    """
    if given is not None:
        if given not in POOLINGS:
            raise InputError(f"pooling is {given!r}; expected one of {', '.join(POOLINGS)}.")
        return given
    folder = Path(str(model.hf.config.name_or_path))
    said = _read(folder / "1_Pooling" / "config.json")
    if said is None:
        raise InputError(
            f"{model.name} does not say how its states become one vector of a text (a folder of "
            f"sentence-transformers does): give pooling, one of {', '.join(POOLINGS)}."
        )
    parts = [str(part["type"]).rpartition(".")[2] for part in _read(folder / "modules.json") or ()]
    if other := [part for part in parts if part not in _PARTS]:
        raise InputError(
            f"{model.name} makes its vectors with a {other[0]} behind its pooling, which is not "
            "run here: give pooling to look at the vectors before it."
        )
    modes = [key for key, on in said.items() if on is True] or [said.get("pooling_mode")]
    found = [how for how, names in _MODES.items() if len(modes) == 1 and modes[0] in names]
    if not found:
        raise InputError(
            f"{model.name} pools by {', '.join(map(str, modes))}, which is not known here: give "
            f"pooling, one of {', '.join(POOLINGS)}."
        )
    return found[0]


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def pooled(states: Tensor, mask: Tensor, how: str) -> Tensor:
    """One vector a text, ``[batch, d]`` float32, of states ``[batch, position, d]``.

    Examples
    --------
    >>> states = torch.tensor([[[1.0], [3.0], [9.0]]])
    >>> pooled(states, torch.tensor([[True, True, False]]), "mean").tolist()
    [[2.0]]
    >>> pooled(states, torch.tensor([[True, True, False]]), "last").tolist()
    [[3.0]]
    """
    states, mask = states.float(), mask.to(states.device)
    if how == "mean":
        return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    order = mask.float().cumsum(1)
    wanted = 1 if how == "first" else mask.sum(1, keepdim=True)
    here = (order == wanted) & mask
    return (states * here[..., None]).sum(1)


class Embedder:
    """Unit vectors of rows of token ids.

    Parameters
    ----------
    how
        One of :data:`POOLINGS`.
    tick
        Called before every pass.

    Attributes
    ----------
    rows, tokens
        How many were embedded, and how many tokens they had.

    Raises
    ------
    ModelError
        The body of the model gives no states.
    """

    def __init__(self, model: LensModel, how: str, tick: Callable[[], None]) -> None:
        self.how, self.rows, self.tokens = how, 0, 0
        self._model, self._tick = model, tick

    def __call__(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """``[row, d]`` float32 on the CPU, each of length 1."""
        order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
        self.rows, self.tokens = self.rows + len(rows), self.tokens + sum(map(len, rows))
        found: dict[int, Tensor] = {}
        start = 0
        while start < len(order):
            end = start + 1
            while end < len(order) and (end + 1 - start) * len(rows[order[end]]) <= MOST_TOKENS:
                end += 1
            chosen = order[start:end]
            found |= zip(chosen, self._pass([rows[number] for number in chosen]), strict=True)
            start = end
        return torch.stack([found[number] for number in range(len(rows))])

    def _pass(self, rows: Sequence[Sequence[int]]) -> Tensor:
        self._tick()
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        mask = torch.arange(longest) < torch.tensor([[len(row)] for row in rows])
        with self._model.running():
            # The body's own last states: behind a final norm where it has one.
            given = self._model.hf.base_model(
                input_ids=ids.to(self._model.device),
                attention_mask=mask.long().to(self._model.device),
            )
            states = getattr(given, "last_hidden_state", None)
            if states is None:
                raise ModelError(f"The body of {self._model.name} gives no states to pool.")
            return torch.nn.functional.normalize(pooled(states, mask, self.how), dim=-1).cpu()
