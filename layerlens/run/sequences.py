"""Sequences of blocks that begin alike are run once where they are alike."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor

from layerlens.run.replay import BlockCall

Path = tuple[int, ...]


class PathStates:
    """States after sequences of blocks, from one first state.

    The states after every beginning of a sequence are kept up to a number of bytes; those that
    were not used for longest are dropped first.

    Parameters
    ----------
    calls
        From :func:`layerlens.run.replay.capture_calls`.
    first
        ``[batch, position, d_model]``.
    memory_limit
        Bytes of kept states.
    tick
        Called before each block; may raise to stop.

    Attributes
    ----------
    blocks_run
        How many blocks were run so far.
    """

    def __init__(
        self,
        calls: Sequence[BlockCall],
        first: Tensor,
        memory_limit: int,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self.blocks_run = 0
        self._calls = calls
        self._first = first
        self._tick = tick
        self._room = max(0, memory_limit // max(1, first.nbytes))
        self._kept: OrderedDict[Path, Tensor] = OrderedDict()

    def after(self, path: Path) -> Tensor:
        """The state after these blocks; call it while the model is running."""
        state, done = self._longest(path)
        for step in range(done, len(path)):
            self._tick()
            state = self._calls[path[step]](state)
            self.blocks_run += 1
            self._keep(path[: step + 1], state)
        return state

    def _longest(self, path: Path) -> tuple[Tensor, int]:
        """The longest beginning whose state is kept."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._kept:
                self._kept.move_to_end(path[:length])
                return self._kept[path[:length]], length
        return self._first, 0

    def _keep(self, path: Path, state: Tensor) -> None:
        self._kept[path] = state
        while len(self._kept) > self._room:
            self._kept.popitem(last=False)
