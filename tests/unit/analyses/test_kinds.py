"""Analyses of pictures, sounds, pairs of texts and classifiers: all checks hold, or it is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.contract import registry
from layerlens.errors import InputError
from layerlens.model.inputs import Given, Sides
from layerlens.model.lensmodel import LensModel
from tests.unit.model.test_kinds import built

KINDS = ("vit", "wav2vec2", "t5", "sentence")
READS = {name: registry.get(name).reads for name in registry.names()}
FOR_ALL = [name for name, reads in READS.items() if "images" in reads]
FOR_PAIRS = [name for name, reads in READS.items() if "pairs" in reads and name not in FOR_ALL]
ANSWERED_ONCE = {
    "ablate_sweep", "back_patch", "clamp", "integrated_gradients", "neuron_path", "patch_sweep",
    "path_patch", "residual_erasure", "skip_layers",
}  # fmt: skip
"""They measure what one position answers."""
MORE: dict[str, dict[str, Any]] = {
    "causal_trace": {"subject": [1]},
    "clamp": {"values": 3, "draws": 2},
    "neuron_path": {"steps": 8},
    "out_of_distribution": {"neighbours": 1},
    "skip_search": {"trials": 3},
    "cross_layer_sensitivity": {"layers": [0, 1]},
    "hessian": {"draws": 2},
    "knockout": {"sources": {"first": [0]}},
}


OF_SEVERAL = {"out_of_distribution"}
"""They compare several with several."""


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
    texts = inputs(model, len(analysis.inputs))
    if name in OF_SEVERAL:
        texts = [together(inputs(model, 4)), together(inputs(model, 6)[4:])]
    return analysis(model, *texts, **MORE.get(name, {}))


def together(each: list[Any]) -> Any:
    """Several inputs as one call takes them."""
    if isinstance(each[0], Sides):
        return ll.sides([one.source for one in each], [one.target for one in each])
    if isinstance(each[0], Given):
        return Given(each[0].kind, tuple(item for one in each for item in one.items), False)
    return each


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FOR_ALL)
def test_its_checks_hold_for_every_kind(name: str, kind: str) -> None:
    if name in ANSWERED_ONCE and kind == "wav2vec2":
        with pytest.raises(InputError, match="ask for what looks at all positions"):
            run(name, kind)
        return
    result = run(name, kind)
    assert [check for check in result.checks if not check.ok] == []
    if kind == "vit" and "token" in result.data.coords and result.data.token.dims == ("position",):
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


@pytest.mark.parametrize("kind", ["sentence", "gpt2", "vit"])
def test_the_energy_of_a_classifier_is_that_of_its_own_logits(kind: str) -> None:
    """In a batch with padding, whatever the pool of the other scores is."""
    model = built(kind)
    each = inputs(model, 6)
    if model.feed.ids:
        each = [[5, 6, 7, 8, 9], [11, 12, 13], [5, 17], [21, 22, 23, 24, 25, 26], [3, 4], [30, 2]]
    known, other = together(each[:4]), together(each[4:])
    found = ll.out_of_distribution(model, known, other, scores=["energy"], pool="mean")
    assert [check.name for check in found.checks] == ["alone as in a batch", "energy of the logits"]
    assert found.checks.ok
    own = [model.hf(**model.feed.arguments(model.hf, model.tokens(one))).logits for one in each]
    energy = -torch.stack(own).detach().flatten(1).logsumexp(-1).double().round(decimals=4)
    apart = np.random.default_rng(0).permutation(4)[:2]
    gaps = energy[4:, None] - energy[apart]
    area = float(((gaps > 0).double() + (gaps == 0) / 2).mean())
    assert float(found.data.auroc.sel(score="energy")[-1]) == area


def test_a_path_through_a_classifier_is_refused_in_words() -> None:
    with pytest.raises(InputError, match="answers once for its whole text"):
        ll.chain_of_layers(built("sentence"), [5, 6, 7])
