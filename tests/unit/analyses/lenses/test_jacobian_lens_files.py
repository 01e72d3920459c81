"""Files of the jacobian-lens package, written here with plain torch as it writes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import layerlens as ll
from layerlens.errors import InputError, ResultError
from layerlens.model.lensmodel import LensModel
from layerlens.result.fitted import Fitted, ModelFacts


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load("toy:induction")


def matrices(model: LensModel) -> dict[int, torch.Tensor]:
    torch.manual_seed(0)
    return {layer: torch.randn(64, 64).half() for layer in range(model.n_layers - 1)}


def saved(at: Path, given: dict, **more: object) -> Path:
    told = {"J": given, "n_prompts": 7, "source_layers": sorted(given), "d_model": 64, **more}
    torch.save(told, at)
    return at


def test_it_reads_the_output_of_a_block(model: LensModel, tmp_path: Path) -> None:
    given = matrices(model)
    lens = ll.import_jacobian_lens(saved(tmp_path / "a.pt", given), model)
    assert lens.complete and lens.scores["train"]["prompts"] == 7
    ids = [5, 9, 4, 5]
    found = ll.logit_lens(model, ids, lens=lens, top_k=1).data
    assert found.point.values.tolist() == ["0_post", "1_post", "final"]
    with torch.no_grad():
        state = model.hf(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0]
        logits = model.hf.lm_head(model.hf.model.norm(state @ given[0].float().T))
    assert found.token_id.values[0, :, 0].tolist() == logits.argmax(-1).tolist()


def test_it_comes_back_to_the_last_bit(model: LensModel, tmp_path: Path) -> None:
    given = matrices(model)
    lens = ll.import_jacobian_lens(saved(tmp_path / "a.pt", given), model)
    out = ll.export_jacobian_lens(lens, tmp_path / "b.pt", model)
    told = torch.load(out, weights_only=True)
    assert told["n_prompts"] == 7 and told["source_layers"] == sorted(given)
    assert told["d_model"] == 64
    assert all(torch.equal(told["J"][layer], given[layer]) for layer in given)


def test_a_fit_under_way_is_divided_and_not_complete(model: LensModel, tmp_path: Path) -> None:
    sums = {layer: 4 * matrix.float() for layer, matrix in matrices(model).items()}
    torch.save({"jacobian_sum": sums, "n_done": 4, "next_idx": 5}, tmp_path / "a.pt")
    lens = ll.import_jacobian_lens(tmp_path / "a.pt", model)
    assert not lens.complete
    torch.testing.assert_close(lens["0_post.jacobian"], sums[0] / 4)


def test_what_does_not_fit_is_said(model: LensModel, tmp_path: Path) -> None:
    given, at = matrices(model), tmp_path / "a.pt"
    for wrong, why in (
        ({**given, model.n_layers - 1: given[0]}, "whose output needs none"),
        ({0: torch.zeros(2, 2)}, "do not all fit"),
        ({9: given[0]}, "do not all fit"),
        ({}, "holds no matrices"),
    ):
        with pytest.raises(InputError, match=why):
            ll.import_jacobian_lens(saved(at, wrong), model)
    saved(at, given, metadata={"model_name": "another"})
    with pytest.raises(InputError, match="was fitted on 'another'"):
        ll.import_jacobian_lens(at, model)
    assert ll.import_jacobian_lens(at, model, force=True).options["imported"]
    torch.save({"J": given}, at)
    with pytest.raises(InputError, match="lacks the number n_prompts"):
        ll.import_jacobian_lens(at, model)
    at.write_bytes(b"no")
    with pytest.raises(ResultError, match="cannot be opened as tensors"):
        ll.import_jacobian_lens(at, model)
    facts, train = ModelFacts.of(model), {"train": {"prompts": 1.0}}
    one = {"embed.jacobian": torch.zeros(64, 64)}
    with pytest.raises(InputError, match="outputs of blocks only, not embed"):
        ll.export_jacobian_lens(Fitted("jacobian_lens", one, facts, "", scores=train), at, model)
    one = {"0_post.jacobian": torch.full((64, 64), 1e6)}
    with pytest.raises(InputError, match="too large for float16"):
        ll.export_jacobian_lens(Fitted("jacobian_lens", one, facts, "", scores=train), at, model)
    itself = Fitted("jacobian_lens", one, facts, "", options={"reduction": "self"}, scores=train)
    with pytest.raises(InputError, match="sums over later positions"):
        ll.export_jacobian_lens(itself, at, model)
    with pytest.raises(InputError, match="A jacobian_lens is needed"):
        ll.export_jacobian_lens(Fitted("bias_lens", one, facts, ""), at, model)
