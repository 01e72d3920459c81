"""A model's own blocks in an order of one's own: skip, repeat, reorder, restart, graft."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.model.integers import is_whole
from layerlens.model.required import require_model
from layerlens.run.replay import capture_calls, replay

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

Predictions = list[tuple[str, float]]


@dataclass(frozen=True, eq=False)
class Layers:
    """What came out of a sequence of blocks.

    Attributes
    ----------
    order
        Numbers of the blocks that were run, in this order.
    final
        ``[batch, position, d_model]``, the state after the last of them.
    tokens
        The text whose positions and masks the blocks were given.
    """

    model: LensModel = field(repr=False)
    tokens: Tokens
    order: tuple[int, ...]
    final: Tensor
    _states: tuple[Tensor, ...] | None = None

    @property
    def states(self) -> Tensor:
        """``[step, batch, position, d_model]``: the state after each step (needs ``keep=True``).

        Raises
        ------
        InputError
            They were not kept.
        """
        if self._states is None:
            raise InputError("The states were not kept: call run_layers with keep=True.")
        if not self._states:
            return self.final.new_empty((0, *self.final.shape))
        return torch.stack(self._states)

    @property
    def logits(self) -> Tensor:
        """``[batch, position, vocabulary]`` float32, computed when asked for."""
        with self.model.running():
            return self.model.unembed(self.final)

    def top(self, k: int = 5, position: Any = -1) -> Predictions | list[Predictions]:
        """The most probable next tokens at one position: ``(token, probability)``, best first.

        Parameters
        ----------
        k
            How many.
        position
            An index (negative from the end of the text) or the text of a token.

        Returns
        -------
        list
            Of pairs; for several texts, a list of such lists.

        Raises
        ------
        InputError
            The position does not exist, or names several.
        """
        pairs = self._best(k, position)
        return pairs[0] if self.tokens.single else pairs

    def _best(self, k: int, position: Any = -1) -> list[Predictions]:
        if not 1 <= k <= self.model.d_vocab:
            raise InputError(f"k is {k}; expected 1 to {self.model.d_vocab}.")
        rows = []
        for row in range(len(self.final)):
            found = self.model.positions(self.tokens, position, row)
            if len(found) != 1:
                raise InputError(f"{position!r} names {len(found)} positions; give one.")
            rows.append(self.final[row, found[0]])
        with self.model.running():
            best = self.model.unembed(torch.stack(rows)).softmax(-1).topk(k)
        return [
            [(self.model.token_string(i), p) for i, p in zip(ids, values, strict=True)]
            for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def __repr__(self) -> str:
        batch, length = self.tokens.ids.shape
        what = f"Layers({show_order(self.order)}: {len(self.order)} steps"
        what += "".join(f", {text}" for text in _differences(self.order, self.model.n_layers))
        what += f"; {batch} x {length} tokens"
        if self.model.anatomy.head is not None:
            token, p = self._best(1)[0][0]
            what += f"; next {token!r} {p:.1%}"
        return what + ")"


def run_layers(
    model: LensModel,
    text: Any,
    order: Iterable[int] | None = None,
    *,
    start: int = 0,
    state: Tensor | None = None,
    keep: bool = False,
    add_bos: bool | None = None,
) -> Layers:
    """Run any sequence of a model's own blocks, from any state.

    Each block keeps the positions, mask and other arguments that the model itself gave it on
    this text. With the order left out, nothing is changed: the logits are the model's own.

    Parameters
    ----------
    model
        From :func:`layerlens.load`.
    text
        A text in any form that ``model.tokens`` takes.
    order
        Numbers of the blocks, first to last: leave some out to skip them, name some twice to
        repeat them, in any order. None: from ``start`` to the last one.
    start
        The first state is the one that the model has before this block on this text; ``n_layers``
        is its last state.
    state
        The first state itself, in place of the model's: ``[position, d_model]`` or ``[batch,
        position, d_model]``, such as ``trace["resid_post", 5]`` of another prompt of the same
        length, or of another model of the same width. It is cast to the model's dtype.
    keep
        Keep the state after each step in ``states``.
    add_bos
        Put the begin token in front, or leave it out; None: as the tokenizer does by itself.

    Returns
    -------
    Layers
        With ``logits``, ``top(k, position)``, ``final`` and ``states``. Costs one pass to see how
        the model calls its blocks, and a block for each step.

    Raises
    ------
    InputError
        A layer does not exist, the state does not fit, or the text is empty.

    References
    ----------
    Skipping and repeating layers of one prompt: Li et al., Skip a Layer or Loop it? Test-Time
    Depth Adaptation of Pretrained LLMs (2025). Grafting a state: Ghandeharioun et al.,
    Patchscopes (2024).

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> ll.run_layers(model, [1, 2, 3, 1], order=[0, 1, 1]).final.shape
    torch.Size([1, 4, 64])
    """
    require_model(model)
    (start,) = layer_numbers(model, [start], "start", model.n_layers)
    wanted = range(start, model.n_layers) if order is None else order
    steps = layer_numbers(model, wanted, "order")
    tokens = model.tokens(text, add_bos=add_bos)
    first: list[Tensor] = [] if state is None else [_fitting(model, tokens, state)]

    def see(layer: int, value: Tensor) -> None:
        if layer == start and state is None:
            first.append(value)

    calls, _ = capture_calls(model, tokens, see, logits=None)
    kept: list[Tensor] = []
    final = replay(
        model, calls, first[0], steps, (lambda _, value: kept.append(value)) if keep else None
    )
    return Layers(model, tokens, steps, final, tuple(kept) if keep else None)


def layer_numbers(
    model: LensModel, layers: Iterable[Any], what: str, last: int | None = None
) -> tuple[int, ...]:
    """Layers as whole numbers.

    Raises
    ------
    InputError
        One of them is no whole number, below 0, or greater than ``last`` (None: the last layer).
    """
    last = model.n_layers - 1 if last is None else last
    given = tuple(layers) if isinstance(layers, Iterable) else (layers,)
    for layer in given:
        if not is_whole(layer) or not 0 <= index(layer) <= last:
            raise InputError(
                f"{layer!r} in {what} is no layer: the model has {model.n_layers}; expected whole "
                f"numbers from 0 to {last}."
            )
    return tuple(map(index, given))


def _fitting(model: LensModel, tokens: Tokens, state: Any) -> Tensor:
    """A user's state as ``[batch, position, d_model]`` of the model's dtype."""
    if not isinstance(state, Tensor) or not state.is_floating_point():
        raise InputError(
            "state is not a floating tensor: give [position, d_model] or [batch, position, "
            "d_model], such as trace['resid_post', 5]."
        )
    batch, length = tokens.ids.shape
    given = state.unsqueeze(0) if state.dim() == 2 else state
    if given.dim() != 3 or given.shape[1:] != (length, model.d_model):
        raise InputError(
            f"state has the shape {list(state.shape)}; expected [{length}, {model.d_model}] or "
            f"[{batch}, {length}, {model.d_model}] for this text and this model."
        )
    if given.shape[0] not in (1, batch):
        raise InputError(f"state holds {given.shape[0]} texts; expected {batch}.")
    if not bool(torch.isfinite(given).all()):
        raise InputError("state holds NaN or infinity: give finite numbers.")
    return given.detach().to(model.device, model.dtype).expand(batch, -1, -1).contiguous()


def show_order(order: Sequence[int]) -> str:
    """Write a sequence with runs drawn together: ``0-2, 4, 4-7``."""
    runs: list[list[int]] = []
    for layer in order:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs) or "no block"


def _differences(order: Sequence[int], n_layers: int) -> list[str]:
    """What a sequence does that the model does not, in words."""
    count = Counter(order)
    skipped = [layer for layer in range(n_layers) if not count[layer]]
    repeated = [layer for layer in range(n_layers) if count[layer] > 1]
    words = []
    if skipped:
        words.append(f"skipped {show_order(skipped)}")
    if repeated:
        words.append(f"repeated {show_order(repeated)}")
    return words
