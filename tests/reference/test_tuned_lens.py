"""A lens that the tuned-lens package saved, read as that package reads it (see the script)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import layerlens as ll
from layerlens.analyses.lenses.tuned_lens_files import unembed_hash

HERE = Path(__file__).parent
STORED = json.loads((HERE / "tuned_lens.json").read_text())


@pytest.fixture(scope="module")
def model() -> ll.LensModel:
    """The model of the script."""
    sizes = {"n_layer": 3, "n_embd": 16, "n_head": 2, "vocab_size": 40, "n_positions": 16}
    small = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)).eval()
    random = np.random.default_rng(0)
    for _, array in sorted(small.named_parameters()):
        array.data = torch.tensor(random.normal(0, 0.3, tuple(array.shape)), dtype=torch.float32)
    return ll.load(small, name="small GPT-2")


def test_its_head_has_the_hash_of_that_package(model: ll.LensModel) -> None:
    assert unembed_hash(model) == STORED["unembed_hash"]


def test_it_reads_every_point_as_that_package_does(model: ll.LensModel) -> None:
    lens = ll.import_tuned_lens(HERE / "tuned_lens", model)
    found = ll.logit_lens(model, STORED["ids"], lens=lens, top_k=3)
    assert found.checks.ok
    assert found.data.point.values.tolist() == [*STORED["points"], "2_post", "final"]
    for point, expected in STORED["points"].items():
        here = found.data.sel(point=point)
        np.testing.assert_array_equal(here.token_id, expected["token_id"])
        for name in ("probability", "kl_to_final"):
            np.testing.assert_allclose(here[name], expected[name], rtol=1e-4, atol=1e-6)


def test_what_is_written_for_that_package_is_what_it_wrote(
    model: ll.LensModel, tmp_path: Path
) -> None:
    lens = ll.import_tuned_lens(HERE / "tuned_lens", model)
    written = ll.export_tuned_lens(lens, tmp_path, model)
    theirs, ours = (torch.load(at / "params.pt") for at in (HERE / "tuned_lens", written))
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    config = [json.loads((at / "config.json").read_text()) for at in (HERE / "tuned_lens", written)]
    assert set(config[0]) == set(config[1])
    same = set(config[0]) - {"base_model_name_or_path"}
    assert all(config[0][name] == config[1][name] for name in same)
