"""The dictionary that is shipped: it explains what its log says, and the script made it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import layerlens as ll
from layerlens.analyses.features import toy_sae
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.toys import toy_folder


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load("toy:addition")


def test_it_explains_what_its_log_says(model: LensModel) -> None:
    log = json.loads((toy_folder("addition") / toy_sae.LOG).read_text("utf-8"))
    sae = ll.load_sae("toy:addition", model)
    found = toy_sae.measure(model, sae)
    assert found["explained_variance"] > sae.scores["test"]["control"] + 0.03
    for name in toy_sae.MEASURED:
        np.testing.assert_allclose(found[name], log["measured"][name], rtol=1e-2, err_msg=name)
    explained = np.array(log["curves"]["explained_variance"])[:, 0]
    assert explained[0] < 0.9 < found["explained_variance"] and len(explained) == 20


def test_it_is_small_and_in_half_precision() -> None:
    path = toy_folder("addition") / toy_sae.FILE
    assert path.stat().st_size < 200_000


def test_other_toys_models_and_options_are_refused(model: LensModel) -> None:
    with pytest.raises(InputError, match="No dictionary is shipped for 'toy:modular'"):
        ll.load_sae("toy:modular", model)
    with pytest.raises(InputError, match="leave out layer"):
        ll.load_sae("toy:addition", model, layer=1)
    with pytest.raises(InputError, match="was fitted on"):
        ll.load_sae("toy:addition", ll.load("toy:induction"))


def test_the_script_learns_and_writes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    brief = {**toy_sae.RECIPE, "activations": 2000, "batch": 64, "size": 1}
    monkeypatch.setattr(toy_sae, "RECIPE", brief)
    monkeypatch.setattr(toy_sae, "EXAMPLES", 100)
    monkeypatch.setattr(toy_sae, "APART", 20)
    toy_sae.main(["--folder", str(tmp_path)])
    log = json.loads((tmp_path / toy_sae.LOG).read_text("utf-8"))
    assert log["curves"]["loss"][0] > log["curves"]["loss"][-1]
    assert (tmp_path / toy_sae.FILE).is_file()
