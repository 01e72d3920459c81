"""The held model of one text after the other, depth by depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.relevance.affine_map import MORE, bias, strongest
from layerlens.analyses.relevance.by_gradient import added, by_gradient
from layerlens.analyses.relevance.explained import Explained, random_answers
from layerlens.analyses.relevance.rules import FLOWS, biases
from layerlens.errors import InputError
from layerlens.run.flow import holding
from layerlens.run.frozen import FrozenText

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

RULE = "cp"
PUSHES = ("along itself, held", "along itself, free", "random, held", "random, free")
SHARES = ("of the last state", "of the answer", "of random answers")
PARTS = ("of states", "of biases")


class Depths:
    """The embedding and the states after some blocks.

    Attributes
    ----------
    begun
        The block that each is the input of; the number of blocks for the last.
    """

    def __init__(self, model: LensModel, layers: Sequence[int]) -> None:
        points = model.anatomy.points(("embed", "post"))
        chosen = [point for point in points if point[2] < 0 or point[2] in layers]
        self.labels = [label for label, _, _ in chosen]
        self.sites = [site for _, site, _ in chosen]
        self.begun = [layer + 1 for _, _, layer in chosen]


class Read(NamedTuple):
    """How a logit is read from the last state with the last norm held: ``row @ state + offset``."""

    row: Tensor
    offset: float

    def __call__(self, state: Tensor) -> Tensor:
        """Without the offset, of ``[..., d_model]``: float64 on the CPU."""
        return state.double().cpu() @ self.row


@dataclass
class Off:
    """The largest differences so far."""

    same: float = 0.0
    affine: float = 0.0
    votes: float = 0.0
    transpose: float = 0.0
    growth: float = 0.0


class LinearText:
    """The work of one call.

    Parameters
    ----------
    beside
        The untrained model, if one is asked for.
    options
        Draws, singular values, rounds and seed.

    Attributes
    ----------
    biased
        Whether some depth had a constant.
    passes
        Passes a text so far; a way back counts as two.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        beside: LensModel | None,
        depths: Depths,
        options: tuple[int, int, int, int],
    ) -> None:
        self.job, self.model, self.beside, self.depths = job, model, beside, depths
        self.draws, self.singular, self.rounds, self.seed = options
        self.off = Off()
        self.passes = 0.0
        self.biased = self.capped = False
        self.words = ""

    def text(self, text: Tokens, row: int, asked: tuple[Any, Any], pushed: Any) -> None:
        """Hold the model at a text and hand over depth after depth.

        Parameters
        ----------
        asked
            The answer and the wrong answer, as they were given.
        pushed
            The token that is pushed, likewise.
        """
        where = {"batch": row} if self.job.batched else {}
        frozen = FrozenText(self.model, text, FLOWS[RULE], self.job.tick)
        chance = self.beside and FrozenText(self.beside, text, FLOWS[RULE], self.job.tick)
        explained, random = self._asked(frozen, row, asked)
        own = by_gradient(self.model, text, frozen.place, self.depths.sites, explained, RULE)
        final = frozen.states[-1][frozen.place]
        reads = [_read(self.model, one, final) for one in (explained, *random)]
        place = frozen.place if pushed is None else one_place(self.model, text, pushed)
        directions = random_directions(self.draws, self.model.d_model, (self.seed, row))
        self.passes += 7 + 4 * (chance is not None)
        for index, layer in enumerate(self.depths.begun):
            here = {**where, "point": index}
            votes = own.at[self.depths.sites[index]]
            self.job.emit({**here, "position": slice(0, len(votes))}, {"vote": votes})
            pushes = _pushes(frozen.states[layer], place, directions)
            constant, whole, columns = self._held(frozen, layer, pushes)
            self.job.emit(here, self._parts(constant, whole - constant, reads, votes))
            self.job.emit(here, self._pushed(frozen, layer, pushes, columns, reads[0], explained))
            if self.singular:
                both = [self._strongest(frozen, layer, constant)]
                both += [self._strongest(chance, layer, bias(chance, layer))] if chance else []
                self.job.emit(here, {"singular_value": np.concatenate(both)})
            self.job.progress(index + 1, len(self.depths.sites), self.depths.labels[index])

    def _asked(
        self, frozen: FrozenText, row: int, asked: tuple[Any, Any]
    ) -> tuple[Explained, list[Explained]]:
        """What is explained of a text, and random answers."""
        answer, wrong = asked
        right = self._own(frozen) if answer is None else self.model.token_id(answer)
        other = None if wrong is None else self.model.token_id(wrong)
        explained = Explained(self.model, right, other)
        self.capped |= explained.capped
        self.words = self.words or explained.words
        return explained, random_answers(self.model, explained, self.draws, self.seed, row)

    def _own(self, frozen: FrozenText) -> int:
        """What the model answers by itself."""
        with self.model.running():
            return int(self.model.unembed(frozen.states[-1][frozen.place][None])[0].argmax())

    def _held(
        self, frozen: FrozenText, layer: int, pushes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The constant, the last state itself, and a column of the matrix for each push."""
        state = frozen.states[layer]
        random = torch.Generator().manual_seed(self.seed)
        drawn = torch.randn(state.shape, generator=random).to(state)
        other = drawn * (state.norm() / drawn.norm())
        # The states themselves make no difference to columns: these are less what 0 gives.
        at = torch.stack([torch.zeros_like(state), state, other, state + other, *pushes])
        constant, whole, two, both, *columns = frozen.final(layer, at)
        true = frozen.states[-1][frozen.place]
        self.off.same = max(self.off.same, _apart(whole, true, true))
        size = torch.stack([whole, two])
        self.off.affine = max(self.off.affine, _apart(both + constant, whole + two, size))
        self.biased |= bool(constant.any())
        self._passed(layer, len(at))
        return constant, whole, torch.stack(columns) - constant

    def _parts(
        self, constant: Tensor, linear: Tensor, reads: Sequence[Read], votes: np.ndarray
    ) -> dict[str, np.ndarray]:
        """What the states carry and what biases add, of the last state and of answers."""
        states = [float(read(linear)) for read in reads]
        biases = [float(read(constant)) + read.offset for read in reads]
        self.biased |= any(read.offset for read in reads)
        size = max(float(np.abs(votes).sum()), abs(states[0] + biases[0]), 1e-9)
        self.off.votes = max(self.off.votes, abs(states[0] - float(votes.sum())) / size)
        shares = [_share(b, a) for a, b in zip(states, biases, strict=True)]
        found = [_share(float(constant.norm()), float(linear.norm())), shares[0]]
        return {
            "answer_part": np.array([states[0], biases[0]]),
            "bias_share": np.array([*found, *([np.mean(shares[1:])] if shares[1:] else [])]),
            "bias": constant.float().cpu().numpy(),
        }

    def _pushed(
        self,
        frozen: FrozenText,
        layer: int,
        pushes: Tensor,
        columns: Tensor,
        read: Read,
        explained: Explained,
    ) -> dict[str, np.ndarray]:
        """What each push does, in the held model and in the model itself."""
        state = frozen.states[layer]
        free = frozen.final(layer, torch.cat([state[None], state + pushes]), held=False)
        answers = explained(free).double().cpu()
        moved = [one.double().norm(dim=-1).cpu() for one in (columns, free[1:] - free[:1])]
        self._passed(layer, 1 + len(pushes))
        return {
            "answer_change": _own_and_random(read(columns).abs(), (answers[1:] - answers[0]).abs()),
            "state_change": _own_and_random(*moved),
        }

    def _strongest(self, held: FrozenText, layer: int, constant: Tensor) -> np.ndarray:
        found = strongest(held, layer, constant, self.singular, self.rounds, self.seed)
        self.off.transpose = max(self.off.transpose, found.transpose_off)
        self.off.growth = max(self.off.growth, found.growth)
        wide = min(self.singular + MORE, self.model.d_model)
        self._passed(layer, 3 * wide * found.rounds)
        values: np.ndarray = found.values.numpy()
        return values

    def _passed(self, layer: int, rows: int) -> None:
        self.passes += rows * (1 - layer / self.model.n_layers)


def random_directions(draws: int, width: int, drawn_by: tuple[int, int]) -> Tensor:
    """Random directions of length 1, ``[draw, width]`` float64.

    Parameters
    ----------
    drawn_by
        The seed, and the number of the text.
    """
    random = np.random.default_rng((*drawn_by, 2))
    drawn = torch.from_numpy(random.standard_normal((draws, width)))
    directions: Tensor = drawn / drawn.norm(dim=-1, keepdim=True)
    return directions


def one_place(model: LensModel, text: Tokens, position: Any) -> int:
    """The single token that is pushed.

    Raises
    ------
    InputError
        It is not one.
    """
    found = list(model.positions(text, position))
    if len(found) != 1:
        raise InputError(
            f"position={position!r} means {len(found)} tokens; name the single one that is pushed."
        )
    return int(found[0])


def _read(model: LensModel, explained: Explained, final: Tensor) -> Read:
    """How an answer is read, with the norm before the head held at a state ``[d_model]``."""
    with (
        model.running(gradients=True),
        holding(model, FLOWS[RULE]) as offsets,
        biases(model) as plain,
    ):
        leaf = final.clone().requires_grad_()
        value = explained(leaf[None])[0]
        adding = {**plain, **offsets.of}
        row, *slopes = torch.autograd.grad(
            value, [leaf, *adding.values()], allow_unused=True, materialize_grads=True
        )
    offset = sum(added(adding, dict(zip(adding, slopes, strict=True))).values())
    return Read(row.double().cpu(), offset)


def _pushes(state: Tensor, place: int, directions: Tensor) -> Tensor:
    """One unit at a token along its own state and along directions, ``[push, position, d_model]``.

    Parameters
    ----------
    directions
        ``[draw, d_model]``, of length 1.
    """
    own = state[place].double()
    along = torch.cat([(own / own.norm().clamp(min=1e-12))[None], directions.to(own)])
    pushes = torch.zeros(len(along), *state.shape, dtype=state.dtype, device=state.device)
    pushes[:, place] = along.to(state)
    return pushes


def _own_and_random(held: Tensor, free: Tensor) -> np.ndarray:
    """In the order of `PUSHES`; the mean of random ones, where there are any."""
    found = [held[0], free[0], *([held[1:].mean(), free[1:].mean()] if len(held) > 1 else [])]
    return np.array([float(one) for one in found])


def _share(part: float, rest: float) -> float:
    size = abs(part) + abs(rest)
    return abs(part) / size if size > 0 else 0.0


def _apart(one: Tensor, other: Tensor, of: Tensor) -> float:
    return float((one.double() - other.double()).abs().max() / of.abs().max().clamp(min=1e-9))
