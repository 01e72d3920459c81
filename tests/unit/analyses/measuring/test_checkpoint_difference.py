"""Two checkpoints: against full singular value decompositions, and with planted changes."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.errors import InputError
from layerlens.model.differences import difference
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

from .. import by_hooks

FAMILIES = ("gpt2", "llama", "gpt_neox")


def pair(family: str) -> tuple[LensModel, LensModel]:
    """A model and a copy of it."""
    hf = tiny_model(family, seed=1)
    other = copy.deepcopy(hf)
    return (
        LensModel.wrap(hf, None, name="before", prove=False),
        LensModel.wrap(other, None, name="after", prove=False),
    )


def by_hand(a: Tensor, b: Tensor) -> dict[str, float]:
    """Every number from the definition, with a full decomposition."""
    a, b = a.detach().double(), b.detach().double()
    s = torch.linalg.svdvals(b - a)
    p = s / s.sum()
    return {
        "relative": float((b - a).norm() / a.norm()),
        "norm": float((b - a).norm()),
        "mean_abs": float((b - a).abs().mean()),
        "spectral": float(s[0]),
        "stable_rank": float(s.square().sum() / s[0] ** 2),
        "effective_rank": float(torch.exp(-(p * p.log()).sum())),
        "cosine": float((a * b).sum() / (a.norm() * b.norm())),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_equals_its_decomposition(family: str) -> None:
    before, after = pair(family)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in after.hf.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    result = ll.checkpoint_difference(before, after)
    data = result.data
    assert result.checks.ok and data.attrs["complete"] == 1 and data.attrs["other"] == "after"
    for layer in range(3):
        mine = dict(by_hooks.blocks(before.hf)[layer].named_parameters())
        theirs = dict(by_hooks.blocks(after.hf)[layer].named_parameters())
        assert data.weight_path.values.tolist() == list(mine)
        for place, name in enumerate(mine):
            found = data.isel(weight=place, layer=layer)
            if mine[name].dim() == 1:
                assert found.weight_kind == "vector" and np.isnan(found.effective_rank)
                off = ((theirs[name] - mine[name]).norm() / mine[name].norm()).detach()
                assert float(found.relative) == pytest.approx(float(off), rel=1e-5)
                continue
            for key, wanted in by_hand(mine[name], theirs[name]).items():
                assert float(found[key]) == pytest.approx(wanted, rel=1e-6), (name, key)
        flat = [
            torch.cat([w.detach().flatten() for w in ws.values()]).double() for ws in (mine, theirs)
        ]
        wanted = float((flat[1] - flat[0]).norm() / flat[0].norm())
        assert float(data.layer_relative[layer]) == pytest.approx(wanted, rel=1e-9)
        cosine = float(torch.cosine_similarity(*flat, dim=0))
        assert float(data.layer_cosine[layer]) == pytest.approx(cosine, rel=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_and_itself_differ_in_nothing(family: str) -> None:
    model, _ = pair(family)
    data = ll.checkpoint_difference(model, model).data
    for name in ("relative", "norm", "mean_abs", "spectral", "rank", "outside_relative"):
        assert (data[name].fillna(0) == 0).all()
    assert (data.cosine == 1).all() and (data.layer_cosine == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [1, 3])
def test_a_low_rank_update_has_its_rank(rank: int, dtype: torch.dtype) -> None:
    before, after = pair("llama")
    for model in (before, after):
        model.hf.to(dtype)
    torch.manual_seed(0)
    weight = after.hf.model.layers[1].mlp.down_proj.weight
    update = torch.randn(32, rank) @ torch.randn(rank, 64)
    with torch.no_grad():
        weight.copy_((weight.double() + update.double()).to(dtype))
    data = ll.checkpoint_difference(before, after).data
    ranks = data["rank"].sel(weight="down_proj").values
    assert ranks.tolist() == [0, rank, 0]
    assert data.layer_relative.values[[0, 2]].tolist() == [0, 0]
    effective = float(data.effective_rank.sel(weight="down_proj", layer=1))
    # Rounding to bfloat16 adds a little of every direction.
    assert effective <= rank * (1 + 1e-3 if dtype == torch.float32 else 8)


def test_short_names_are_the_ends_of_the_paths() -> None:
    names = {
        family: ll.checkpoint_difference(*pair(family), spectrum=False).data.weight.values.tolist()
        for family in ("llama", "gpt2")
    }
    assert names["llama"][:2] == ["q_proj", "k_proj"] and names["llama"][-1].endswith("layernorm")
    assert {"attn.c_proj", "mlp.c_proj", "c_attn", "c_attn.bias"} <= set(names["gpt2"])
    assert all(len(set(short)) == len(short) for short in names.values())


def test_known_spectra() -> None:
    zero = torch.zeros(6, 4)
    wide = torch.zeros(4, 6)
    wide[:, :4] = 3 * torch.eye(4)
    for found in (difference(zero, wide.T), difference(zero.T, wide)):
        assert found.spectral == pytest.approx(3) and found.norm == pytest.approx(6)
        assert found.stable_rank == pytest.approx(4) and found.rank == 4
        assert found.effective_rank == pytest.approx(4)
        assert math.isnan(found.relative) and math.isnan(found.cosine)
    opposite = difference(torch.eye(3), -torch.eye(3))
    assert opposite.cosine == pytest.approx(-1) and opposite.relative == pytest.approx(2)
    turned = difference(torch.eye(2), torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
    assert turned.cosine == 0 and turned.relative == pytest.approx(math.sqrt(2))


def test_rounding_to_bfloat16_is_below_the_noise_floor() -> None:
    before, after = pair("gpt2")
    after.hf.to(torch.bfloat16)
    data = ll.checkpoint_difference(before, after, spectrum=False).data
    assert 0 < float(data.relative.max()) <= data.attrs["noise_floor"] == 2**-8
    assert "spectral" not in data and "rank" not in data


def test_more_rows_of_the_embedding_are_left_out_and_said() -> None:
    before, _ = pair("llama")
    wider = tiny_model("llama", seed=1, vocab_size=105)
    with torch.no_grad():
        wider.model.embed_tokens.weight[:99] = before.hf.model.embed_tokens.weight
    data = ll.checkpoint_difference(before, LensModel.wrap(wider, None, prove=False)).data
    assert float(data.outside_relative.sel(outside="model.embed_tokens.weight")) == 0
    assert "only the rows that both" in data.attrs["notes"]


def test_the_call_is_written_down_and_the_result_stored(tmp_path: Any) -> None:
    before, after = pair("gpt2")
    result = ll.checkpoint_difference(before, other=after)
    assert result.code == "ll.checkpoint_difference(model, other=other)"
    result.save(tmp_path / "d.nc")
    assert ll.open(tmp_path / "d.nc").data.attrs["other"] == "after"
    assert "checkpoint_difference" in repr(result)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (None, "other"),
        (LensModel.wrap(tiny_model("gpt2"), None, name="x", prove=False), "missing"),
        (
            LensModel.wrap(tiny_model("llama", num_hidden_layers=2), None, prove=False),
            "3 and .* 2|3 blocks",
        ),
        (
            LensModel.wrap(tiny_model("llama", intermediate_size=80), None, prove=False),
            "one architecture",
        ),
    ],
)
def test_what_does_not_fit_is_refused(other: Any, words: str) -> None:
    before, _ = pair("llama")
    with pytest.raises(InputError, match=words):
        ll.checkpoint_difference(before, other)


def test_quantised_weights_are_refused() -> None:
    before, after = pair("llama")
    after.hf.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(
        torch.zeros(64, 32, dtype=torch.uint8), requires_grad=False
    )
    with pytest.raises(InputError, match="quantised"):
        ll.checkpoint_difference(before, after)
