"""Dictionaries that SAELens saved give here what they gave there; made by `make_sae_lens.py`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import layerlens as ll
from layerlens.analyses.features.dictionaries.dictionary import Dictionary
from layerlens.errors import InputError, ResultError
from layerlens.model.lensmodel import LensModel

HERE = Path(__file__).parent / "sae_lens"
FOLDERS = sorted(folder for folder in HERE.iterdir() if folder.is_dir())


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load("toy:induction")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_features_and_what_is_decoded_are_those_of_sae_lens(folder: Path, model: LensModel) -> None:
    found = ll.load_sae(folder, model)
    dictionary, numbers = Dictionary.of(found), load_file(folder / "numbers.safetensors")
    y, f = dictionary.reconstruct(numbers["x"])
    torch.testing.assert_close(f, numbers["f"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(y, numbers["y"], atol=1e-5, rtol=1e-5)
    assert (f > 0).any() and (f == 0).any()
    assert found.kind == ("transcoder" if "transcoder" in folder.name else "sae")
    assert found.options["site"] == ("z" if folder.name.endswith("1") else "resid_post")
    assert found.options["layers"] == [1]


SAES = [folder for folder in FOLDERS if "transcoder" not in folder.name]


@pytest.mark.parametrize("folder", SAES, ids=lambda folder: folder.name)
def test_written_and_opened_again_it_is_the_same(
    folder: Path, model: LensModel, tmp_path: Path
) -> None:
    found = ll.load_sae(folder, model)
    again = ll.load_sae(ll.export_sae(found, tmp_path / "sae", model), model)
    assert all(torch.equal(again[name], found[name]) for name in found)
    assert again.options["dictionary"] == found.options["dictionary"]
    kept = ll.open(found.save(tmp_path / "sae.safetensors"))
    assert kept.identical(found)


def changed(folder: str, tmp_path: Path, **config: object) -> Path:
    """A copy of a folder with other words in its configuration; None takes one out."""
    target = tmp_path / "changed"
    shutil.copytree(HERE / folder, target)
    told = json.loads((target / "cfg.json").read_text()) | config
    kept = {name: value for name, value in told.items() if value is not None}
    (target / "cfg.json").write_text(json.dumps(kept))
    return target


def test_a_configuration_of_before_version_6_is_understood(
    model: LensModel, tmp_path: Path
) -> None:
    old = changed(
        "topk-none-100", tmp_path, metadata=None, architecture=None, k=None,
        hook_point="blocks.0.hook_resid_pre", activation_fn_str="topk",
        activation_fn_kwargs={"k": 5}, normalize_activations=False, reshape_activations=None,
    )  # fmt: skip
    found = ll.load_sae(old, model)
    numbers = load_file(old / "numbers.safetensors")
    torch.testing.assert_close(Dictionary.of(found).encode(numbers["x"]), numbers["f"])
    assert (found.options["site"], found.options["layers"]) == ("resid_pre", [0])
    assert found.options["positions_skipped"] == 1


def test_a_factor_that_the_files_lack_is_asked_for(model: LensModel, tmp_path: Path) -> None:
    old = changed("standard-none-100", tmp_path, normalize_activations=True)
    with pytest.raises(InputError, match="scale="):
        ll.load_sae(old, model)
    numbers = load_file(old / "numbers.safetensors")
    found = Dictionary.of(ll.load_sae(old, model, scale=4.0))
    torch.testing.assert_close(found.encode(numbers["x"] / 4), numbers["f"])
    torch.testing.assert_close(found.folded().reconstruct(numbers["x"] / 4)[0] * 4, numbers["y"])


def test_centred_writes_are_activations_without_their_mean(
    model: LensModel, tmp_path: Path
) -> None:
    numbers = load_file(HERE / "standard-none-100" / "numbers.safetensors")
    found = Dictionary.of(ll.load_sae(HERE / "standard-none-100", model, centred=True))
    x = numbers["x"] - numbers["x"].mean(-1, keepdim=True)
    plain = Dictionary.of(ll.load_sae(HERE / "standard-none-100", model))
    torch.testing.assert_close(found.encode(x + 7), plain.encode(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("named", ["temporal", "matching_pursuit", "abstopk"])
def test_what_is_no_affine_map_and_threshold_is_refused_by_name(
    named: str, model: LensModel, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=named):
        ll.load_sae(changed("standard-none-100", tmp_path, architecture=named), model)


def test_gemma_scope_files_need_a_place_and_no_input_bias(model: LensModel, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    shapes = {"W_enc": (64, 20), "W_dec": (20, 64), "b_enc": (20,), "b_dec": (64,)}
    arrays = {n: random.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    arrays["threshold"] = random.random(20).astype(np.float32)
    path = tmp_path / "params.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="give site= and layer="):
        ll.load_sae(path, model)
    found = ll.load_sae(path, model, site="resid_post", layer=1)
    x = random.normal(size=(5, 64)).astype(np.float32)
    pre = x @ arrays["W_enc"] + arrays["b_enc"]
    f = np.where(pre > arrays["threshold"], np.maximum(pre, 0), 0)
    y, features = Dictionary.of(found).reconstruct(torch.from_numpy(x))
    np.testing.assert_allclose(features.numpy(), f, atol=1e-4)
    np.testing.assert_allclose(y.numpy(), f @ arrays["W_dec"] + arrays["b_dec"], atol=1e-4)


def test_another_width_and_damaged_files_are_refused(model: LensModel, tmp_path: Path) -> None:
    other = ll.load("toy:addition")
    assert other.d_model != 64
    with pytest.raises(InputError, match="width 64"):
        ll.load_sae(HERE / "standard-none-100", other, layer=0)
    damaged = changed("gated-none-100", tmp_path / "more")
    (damaged / "sae_weights.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ResultError, match="damaged"):
        ll.load_sae(damaged, model)
    save_file({"W_enc": torch.zeros(64, 3)}, damaged / "sae_weights.safetensors")
    with pytest.raises(InputError, match="needs W_dec"):
        ll.load_sae(damaged, model)
