"""What a later layer, and the head, lose when they alone do not see what a layer has added."""

from __future__ import annotations

from collections.abc import Callable

import torch

from layerlens.analyses.depth.layer_subsets import CleanRun, SkipRow, Window


def direct_rows(
    clean: CleanRun, window: Window, firsts: range, tick: Callable[[], None]
) -> tuple[list[SkipRow], int]:
    """Direct effects of some layers on all later ones, everything between held as it was.

    Layer ``l`` is given ``h_l - c_s``, with ``c_s`` what layer ``s`` has added; so is the head.

    Parameters
    ----------
    firsts
        The layers ``s``.

    Returns
    -------
    rows
        One a layer of ``firsts``; the last takes nothing away, and measures rounding.
    blocks
        How many blocks were run for them.
    """
    layers, measured = len(clean.states) - 1, list(window.measured)
    mask = torch.zeros(clean.states[0].shape[1], 1, dtype=torch.bool)
    mask[list(window.changed)] = True
    blocks = 0

    def without(layer: int, sources: list[int]) -> torch.Tensor:
        """The state before a layer without what each source has added, and as it was."""
        state = clean.states[layer]
        wide = torch.promote_types(torch.float32, state.dtype)
        taken = [
            (clean.states[s + 1].to(wide) - clean.states[s].to(wide)).to(state.device)
            for s in sources
        ]
        here = mask.to(state.device)
        return torch.cat([*(torch.where(here, state - c, state).to(state) for c in taken), state])

    finals = without(layers, list(firsts))
    rows = [
        SkipRow(skipped, torch.zeros(layers, len(measured)), final)
        for skipped, final in zip([*((s,) for s in firsts), ()], finals, strict=True)
    ]
    for layer in range(firsts.start + 1, layers):
        tick()
        sources = [s for s in firsts if s < layer]
        before = without(layer, sources)
        change = clean.change(layer, before, clean.calls(layer, before), measured).cpu()
        for row, found in zip([*rows[: len(sources)], rows[-1]], change, strict=True):
            row.change[layer] = found
        blocks += len(before)
    return rows, blocks
