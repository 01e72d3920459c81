"""Folders of the tuned-lens package, written here with plain torch as it writes them."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.lenses.points import lens_points
from layerlens.analyses.lenses.readers import reader_of
from layerlens.analyses.lenses.tuned_lens_files import matrix_hash, unembed_hash
from layerlens.errors import InputError, ResultError
from layerlens.model.lensmodel import LensModel
from layerlens.result.fitted import Fitted, ModelFacts


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load("toy:induction")


def translators(model: LensModel) -> torch.nn.ModuleList:
    torch.manual_seed(0)
    d = model.d_model
    return torch.nn.ModuleList([torch.nn.Linear(d, d).half() for _ in range(model.n_layers)])


def folder(model: LensModel, at: Path, **changed: object) -> Path:
    at.mkdir(exist_ok=True)
    torch.save(translators(model).state_dict(), at / "params.pt")
    config = {
        "base_model_name_or_path": "toy", "d_model": model.d_model,
        "num_hidden_layers": model.n_layers, "bias": True, "base_model_revision": None,
        "unembed_hash": unembed_hash(model), "lens_type": "linear_tuned_lens", "newer": 1,
    }  # fmt: skip
    (at / "config.json").write_text(json.dumps(config | changed))
    return at


def test_it_reads_as_that_package_does(model: LensModel, tmp_path: Path) -> None:
    lens = ll.import_tuned_lens(folder(model, tmp_path), model)
    assert lens["embed.weight"].dtype == torch.float16
    h = torch.randn(5, model.d_model, generator=torch.Generator().manual_seed(1))
    for layer, point in enumerate(lens_points(model, ("embed", "post"))[:-1]):
        linear = translators(model)[layer].float()
        expected = model.head_input(h + linear(h))
        torch.testing.assert_close(reader_of(model, lens).decode(point, h), expected)


def test_it_comes_back_to_the_last_bit(model: LensModel, tmp_path: Path) -> None:
    lens = ll.import_tuned_lens(folder(model, tmp_path / "a"), model)
    out = ll.export_tuned_lens(lens, tmp_path / "b", model)
    again = ll.import_tuned_lens(out, model)
    assert list(again) == list(lens)
    assert all(torch.equal(again[name], lens[name]) for name in lens)
    state = torch.load(out / "params.pt", weights_only=True)
    assert translators(model).load_state_dict(state)
    assert json.loads((out / "config.json").read_text())["unembed_hash"] == unembed_hash(model)


def test_the_hash_is_of_how_a_matrix_prints() -> None:
    expected = hashlib.sha256(b"[[1.  0.5]\n [0.  2. ]]").hexdigest()
    assert matrix_hash(np.array([[1.01, 0.52], [0, 2]], dtype=np.float32)) == expected


def test_another_head_is_refused_unless_forced(model: LensModel, tmp_path: Path) -> None:
    hf = copy.deepcopy(model.hf)
    with torch.no_grad():
        hf.get_output_embeddings().weight.add_(1.0)
    other = LensModel.wrap(hf, None, name="other", prove=False)
    at = folder(model, tmp_path)
    with pytest.raises(InputError, match="for another head than that of other"):
        ll.import_tuned_lens(at, other)
    lens = ll.import_tuned_lens(at, other, force=True)
    assert lens.model == ModelFacts.of(other)
    with pytest.raises(InputError, match="was fitted on"):
        ll.export_tuned_lens(lens, tmp_path / "x", model)


def test_what_does_not_fit_is_said(model: LensModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is for 9 blocks of width 64"):
        ll.import_tuned_lens(folder(model, tmp_path, num_hidden_layers=9), model)
    with pytest.raises(InputError, match="holds no linear_tuned_lens"):
        ll.import_tuned_lens(folder(model, tmp_path, lens_type="other"), model)
    at = folder(model, tmp_path)
    torch.save({"0.weight": torch.zeros(2, 2)}, at / "params.pt")
    with pytest.raises(InputError, match=r"has no 0\.weight of shape"):
        ll.import_tuned_lens(at, model)
    (at / "params.pt").write_bytes(b"no")
    with pytest.raises(ResultError, match="cannot be opened as tensors"):
        ll.import_tuned_lens(at, model)
    with pytest.raises(ResultError):
        ll.import_tuned_lens(tmp_path / "nowhere", model)
    zeros = {"0_post.bias": torch.zeros(model.d_model)}
    lens = Fitted("bias_lens", zeros, ModelFacts.of(model), "")
    with pytest.raises(InputError, match="has no map for embed"):
        ll.export_tuned_lens(lens, tmp_path / "y", model)
    with pytest.raises(InputError, match="A probe cannot be written"):
        ll.export_tuned_lens(Fitted("probe", zeros, ModelFacts.of(model), ""), tmp_path, model)
