"""Patches picked by hand against plain hooks, on families with different shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.patching.hand_patches import Bench, Patch, Place
from layerlens.errors import InputError, SiteError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

CLEAN, CORRUPT = [5, 6, 7, 8, 9], [5, 6, 17, 8, 9]
BLOCKS = {"llama": "model.layers", "gpt2": "transformer.h"}


@pytest.fixture(params=list(BLOCKS))
def model(request: pytest.FixtureRequest) -> LensModel:
    torch.set_num_threads(1)
    return LensModel.wrap(tiny_model(request.param, 3), None, name=request.param, prove=False)


def bench(model: LensModel, clean: Any = CLEAN, corrupt: Any = CORRUPT, **options: Any) -> Bench:
    return Bench(model, model.tokens(clean), model.tokens(corrupt), **options)


def swapped(
    model: LensModel, base: list[int], source: list[int], moves: dict[int, list[tuple[int, int]]]
) -> torch.Tensor:
    """Probabilities of `base` with states before blocks from `source`: block to (to, from)."""
    hf: Any = model.hf
    blocks = hf.get_submodule(BLOCKS[model.name])
    kept: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        handles = [
            block.register_forward_pre_hook(lambda m, a, i=i: kept.__setitem__(i, a[0].clone()))
            for i, block in enumerate(blocks)
        ]
        hf(torch.tensor([source]))
        for handle in handles:
            handle.remove()

        def put(layer: int) -> Any:
            def hook(module: Any, args: Any) -> Any:
                state = args[0].clone()
                for to, come in moves[layer]:
                    state[0, to] = kept[layer][0, come]
                return (state, *args[1:])

            return hook

        handles = [blocks[layer].register_forward_pre_hook(put(layer)) for layer in moves]
        logits = hf(torch.tensor([base])).logits[0, -1]
        for handle in handles:
            handle.remove()
    return logits.float().softmax(-1)


def test_stacked_patches_equal_hooks(model: LensModel) -> None:
    found = bench(model)
    patches = [Patch("resid_pre", Place(i, p), Place(i, p)) for i, p in ((0, 2), (1, 3))]
    expected = swapped(model, CORRUPT, CLEAN, {0: [(2, 2)], 1: [(3, 3)]})
    assert np.allclose(found.after(patches).probabilities, expected, atol=1e-5)
    trace = eval(found.code(patches), {"ll": ll, "model": model})
    assert torch.allclose(trace.logits[0, -1].softmax(-1), expected, atol=1e-5)


def test_texts_of_unequal_length_meet_where_they_are_aligned(model: LensModel) -> None:
    align = [(0, 0), (2, 3), (3, 4), (4, 5)]
    found = bench(model, corrupt=[5, 6, 18, 17, 8, 9], align=align)
    whole = Patch("resid_pre", Place(1), Place(1))
    moves = {1: [(k, c) for c, k in align]}
    expected = swapped(model, [5, 6, 18, 17, 8, 9], CLEAN, moves)
    assert np.allclose(found.after([whole]).probabilities, expected, atol=1e-5)
    assert "position=[0, 3, 4, 5]" in found.code([whole])


def test_all_states_of_the_other_run_give_the_other_run(model: LensModel) -> None:
    for direction, base, other in (("denoise", CORRUPT, CLEAN), ("noise", CLEAN, CORRUPT)):
        found = bench(model, direction=direction)
        assert found.before.recovered == pytest.approx(0, abs=1e-6)
        with torch.no_grad():
            logits = [model.hf(torch.tensor([ids])).logits[0, -1] for ids in (base, other)]
        before, after = found.before, found.after([Patch("resid_pre", Place(1), Place(1))])
        assert np.allclose(before.probabilities, logits[0].softmax(-1), atol=1e-5)
        assert np.allclose(after.probabilities, logits[1].softmax(-1), atol=1e-5)
        assert after.recovered == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("patch", "error", "words"),
    [
        (Patch("resid_pre", Place(77, 0), Place(0, 0)), SiteError, "77"),
        (Patch("resid_pre", Place(0, 5), Place(0, 0)), InputError, "goes to position 5"),
        (Patch("resid_pre", Place(0, 0), Place(0, 5)), InputError, "comes from position 5"),
        (Patch("resid_pre", Place(0, 0), Place(0)), InputError, "all to all"),
        (Patch("mlp_out", Place(0, 0), Place(0, 0), head=0), InputError, "no heads"),
        (Patch("z", Place(0), Place(0), head=99), SiteError, "99"),
    ],
)
def test_patches_that_do_not_fit(
    model: LensModel, patch: Patch, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        bench(model).after([patch])
