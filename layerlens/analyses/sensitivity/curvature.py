"""Products of the Hessian of a loss by groups of weights with vectors, never the Hessian itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from layerlens.analyses.sensitivity.text_gradients import recorded
from layerlens.errors import ModelError

Vectors = Mapping[int, Tensor]
"""Number of a group to ``[n]``, one number for each of its weights."""

Loss = Callable[[], Tensor]


class Curvature:
    """The Hessian ``H`` of the mean of some losses, in blocks ``H_ab`` by groups of weights.

    A product is the gradient of ``g . v`` with ``g`` the recorded gradient (Pearlmutter 1994). It
    needs attention that can be differentiated twice, so that PyTorch's own is held to its plain
    mathematics meanwhile. Call it while gradients are recorded.

    Parameters
    ----------
    groups
        Weights, each in one group only.
    losses
        Each computes its loss anew.
    others
        Weights that are held; nothing is recorded for them.
    tick
        Called before each loss; may raise to stop.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[nn.Parameter]],
        losses: Sequence[Loss],
        others: Sequence[nn.Parameter] = (),
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self.groups, self.losses, self.others, self.tick = groups, losses, others, tick
        self.sizes = [sum(p.numel() for p in group) for group in groups]

    @contextmanager
    def products(
        self, along: Sequence[int], wanted: Sequence[int]
    ) -> Iterator[Callable[[Vectors], dict[int, Tensor]]]:
        """A function from vectors in the groups ``along`` to the parts ``wanted`` of ``H v``.

        Of one loss the recorded gradient is kept between calls; of several it is made again.
        """
        with self._recording({*along, *wanted}):
            kept = self._slopes(self.losses[0], along) if len(self.losses) == 1 else None

            def product(vectors: Vectors) -> dict[int, Tensor]:
                total: dict[int, Tensor] = {}
                for loss in self.losses:
                    self.tick()
                    slopes = kept or self._slopes(loss, along)
                    parts = self._second(slopes, along, vectors, wanted, keep=kept is not None)
                    total = {g: total[g] + parts[g] if total else parts[g] for g in wanted}
                return {g: part / len(self.losses) for g, part in total.items()}

            yield product

    def gradient(self, group: int) -> Tensor:
        """The gradient of the mean loss by one group, ``[n]``."""
        with self._recording({group}):
            each = [torch.autograd.grad(loss(), list(self.groups[group])) for loss in self.losses]
        return torch.stack([_flat(slopes) for slopes in each]).mean(0)

    def difference(self, group: int, vector: Tensor, step: float) -> Tensor:
        """``H_aa v`` by moving the weights either way, without a second derivative."""
        ends = []
        for sign in (1, -1):
            with moved(self.groups[group], vector, sign * step):
                ends.append(self.gradient(group))
        found: Tensor = (ends[0] - ends[1]) / (2 * step)
        return found

    def _slopes(self, loss: Loss, along: Sequence[int]) -> list[Tensor]:
        weights = [p for group in along for p in self.groups[group]]
        with sdpa_kernel(SDPBackend.MATH):
            found = torch.autograd.grad(
                loss(), weights, create_graph=True, allow_unused=True, materialize_grads=True
            )
        return list(found)

    def _second(
        self,
        slopes: Sequence[Tensor],
        along: Sequence[int],
        vectors: Vectors,
        wanted: Sequence[int],
        *,
        keep: bool,
    ) -> dict[int, Tensor]:
        along_weights = [p for group in along for p in self.groups[group]]
        pieces = _shaped(torch.cat([vectors[group] for group in along]), along_weights)
        dot = torch.stack([(g * v).sum() for g, v in zip(slopes, pieces, strict=True)]).sum()
        weights = [p for group in wanted for p in self.groups[group]]
        try:
            found = torch.autograd.grad(
                dot, weights, retain_graph=keep, allow_unused=True, materialize_grads=True
            )
        except RuntimeError as error:
            if "not implemented" not in str(error):
                raise
            raise ModelError(
                f"A part of this model cannot be differentiated twice ({error}): load it with "
                'attn_implementation="eager".'
            ) from error
        flat = _flat(found).split([self.sizes[group] for group in wanted])
        return dict(zip(wanted, flat, strict=True))

    @contextmanager
    def _recording(self, groups: set[int]) -> Iterator[None]:
        """Record for these groups alone: what comes before them costs a plain pass."""
        every = [p for group in self.groups for p in group]
        chosen = {id(p) for group in groups for p in self.groups[group]}
        rest = [p for p in (*every, *self.others) if id(p) not in chosen]
        before = [p.requires_grad for p in rest]
        with ExitStack() as stack:
            stack.enter_context(recorded([p for p in every if id(p) in chosen]))
            try:
                for p in rest:
                    p.requires_grad_(False)
                yield
            finally:
                for p, was in zip(rest, before, strict=True):
                    p.requires_grad_(was)

    def signs(self, group: int, *seed: int) -> Tensor:
        """Random signs for the weights of a group, ``[n]``."""
        like = self.groups[group][0]
        drawn = torch.randint(0, 2, (self.sizes[group],), generator=generator(group, *seed))
        return (2 * drawn - 1).to(like)

    def normal(self, group: int, *seed: int) -> Tensor:
        """A random direction of length 1 among the weights of a group, ``[n]``."""
        like = self.groups[group][0]
        drawn = torch.randn(self.sizes[group], generator=generator(group, *seed))
        return torch.nn.functional.normalize(drawn, dim=0).to(like)


@contextmanager
def moved(weights: Sequence[nn.Parameter], vector: Tensor, step: float) -> Iterator[None]:
    """Let weights be elsewhere in a ``with`` block; at the end they are the very same memory."""
    own = [p.data for p in weights]
    try:
        for p, v in zip(weights, _shaped(vector, weights), strict=True):
            p.data = p.data + step * v
        yield
    finally:
        for p, data in zip(weights, own, strict=True):
            p.data = data


def generator(*seed: int) -> torch.Generator:
    """A generator that several numbers seed together."""
    state = np.random.SeedSequence(seed).generate_state(1)[0]
    return torch.Generator().manual_seed(int(state))


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _shaped(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = vector.split([p.numel() for p in like])
    return [part.view_as(p) for part, p in zip(parts, like, strict=True)]
