"""Many copies of some texts through a block at once are each what it would be alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layerlens.run import block_rows
from layerlens.run.block_rows import RowCalls

from .families import tiny

TEXTS = [[11, 42, 7, 63, 5], [80, 29, 3], [9, 9, 1, 4]]


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "gemma2", "opt", "mixtral"])
@pytest.mark.parametrize("texts", [TEXTS, TEXTS[0]], ids=["several", "one"])
def test_copies_do_not_see_each_other(
    family: str, texts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(family)
    tokens = model.tokens(texts)
    states: list[Tensor] = []
    with model.running():
        rows = RowCalls(model, tokens, lambda _, state: states.append(state))
        assert rows.texts == len(tokens.ids)
        assert rows.at_once > rows.texts
        scales = [1.0, 0.5, 2.0]
        for layer in range(model.n_layers):
            many = rows(layer, torch.cat([scale * states[layer] for scale in scales]))
            for scale, found in zip(scales, many.split(rows.texts), strict=True):
                alone = rows.calls[layer](scale * states[layer])
                real = tokens.mask
                torch.testing.assert_close(found[real], alone[real], atol=1e-5, rtol=1e-5)
        monkeypatch.setattr(block_rows, "TOKENS_AT_ONCE", 1)
        few = RowCalls(model, tokens)
        assert few.at_once == few.texts
        again = few(0, torch.cat([states[0]] * 2))
        torch.testing.assert_close(again[: few.texts], states[1], atol=1e-5, rtol=1e-5)
