"""Analyses of pictures, sounds, pairs of texts and classifiers: all checks hold, or it is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.contract import registry
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from tests.unit.model.test_kinds import built

KINDS = ("vit", "wav2vec2", "t5", "sentence")
READS = {name: registry.get(name).reads for name in registry.names()}
FOR_ALL = [name for name, reads in READS.items() if "images" in reads]
FOR_PAIRS = [name for name, reads in READS.items() if "pairs" in reads and name not in FOR_ALL]
ANSWERED_ONCE = {
    "ablate_sweep", "integrated_gradients", "patch_sweep", "path_patch", "residual_erasure",
    "skip_layers",
}  # fmt: skip
"""They measure what one position answers."""
MORE: dict[str, dict[str, Any]] = {
    "causal_trace": {"subject": [1]},
    "cross_layer_sensitivity": {"layers": [0, 1]},
    "hessian": {"draws": 2},
    "knockout": {"sources": {"first": [0]}},
}


def inputs(model: LensModel, count: int) -> list[Any]:
    rng = np.random.default_rng(3)
    kind = model.feed.reads
    if kind == "images":
        return [ll.images(rng.normal(size=(3, 16, 16)).astype(np.float32)) for _ in range(count)]
    if kind == "audio":
        return [ll.audio(rng.normal(size=1000)) for _ in range(count)]
    ids = [[5, 6, 20 + i, 8, 9] for i in range(count)]
    return [ll.sides(one, [10, 11]) for one in ids] if kind == "pairs" else ids


def run(name: str, kind: str) -> Any:
    model, analysis = built(kind), getattr(ll, name)
    return analysis(model, *inputs(model, len(analysis.inputs)), **MORE.get(name, {}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FOR_ALL)
def test_its_checks_hold_for_every_kind(name: str, kind: str) -> None:
    if name in ANSWERED_ONCE and kind == "wav2vec2":
        with pytest.raises(InputError, match="ask for what looks at all positions"):
            run(name, kind)
        return
    result = run(name, kind)
    assert [check for check in result.checks if not check.ok] == []
    if "position" in result.data.dims and "token" in result.data.coords and kind == "vit":
        assert "r0c0" in result.data.token.values


@pytest.mark.parametrize("name", FOR_PAIRS)
def test_its_checks_hold_for_pairs(name: str) -> None:
    assert [check for check in run(name, "t5").checks if not check.ok] == []


def test_a_lens_ends_in_the_answer_of_the_model() -> None:
    model = built("vit")
    (picture,) = inputs(model, 1)
    lens = ll.logit_lens(model, picture)
    own = ll.record(model, picture, [], logits="all").logits
    assert own is not None
    final = lens.data.sel(point="final").isel(position=0)
    assert int(final.token_id[0]) == int(own[0, 0].argmax())
    assert float(final.probability[0]) == pytest.approx(
        float(own[0, 0].softmax(-1).max()), abs=1e-6
    )
    assert int(final.target_id) == int(own[0, 0].argmax())


def test_patching_the_written_side_says_that_the_sources_differ() -> None:
    model = built("t5")
    clean, corrupt = inputs(model, 2)
    patched = ll.patch_sweep(model, clean, corrupt)
    assert "read different sources" in patched.data.attrs["notes"]
    names = [check.name for check in patched.checks]
    assert "patching everything gives the other run" not in names
    same = ll.patch_sweep(model, ll.sides([5, 6], [9, 10]), ll.sides([5, 6], [9, 11]))
    assert "patching everything gives the other run" in [check.name for check in same.checks]


def test_patches_of_a_picture_differ_before_the_first_block() -> None:
    model = built("vit")
    clean, corrupt = inputs(model, 2)
    patched = ll.patch_sweep(model, clean, corrupt, site="resid_pre", layers=[0]).data
    assert patched.recovered.sel(layer=0, position=0) == 0  # the class token is the same
    others = patched.metric.sel(layer=0).values[1:]
    tokens, source = (model.tokens(one) for one in (corrupt, clean))
    pixels = tokens.given["pixel_values"].clone()
    pixels[..., 4:8, 8:12] = source.given["pixel_values"][..., 4:8, 8:12]  # row 1, column 2
    with torch.inference_mode():
        logits = model.hf(pixel_values=pixels).logits[0]
    attrs = patched.attrs
    answer, wrong = int(attrs["answer"]), int(attrs["wrong"])
    direct = float(logits[answer] - logits[wrong])
    assert others[1 * 4 + 2] == pytest.approx(direct, abs=1e-4)
