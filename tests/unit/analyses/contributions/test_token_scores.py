"""What directions mean in the logits: where a head is linear, and where it is not."""

from __future__ import annotations

import pytest
import torch

import layerlens as ll
from layerlens.analyses.contributions.token_scores import bends, final_direction, write_scores
from layerlens.errors import ModelError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model


def wrapped(family: str) -> LensModel:
    return LensModel.wrap(tiny_model(family, seed=1), None, name=family)


@pytest.mark.parametrize(
    ("family", "path"),
    [
        ("bert", "cls.predictions.transform"),
        ("electra", "generator_predictions"),
        ("roberta", "lm_head"),
    ],
)
def test_a_transform_before_the_head_or_inside_it_is_refused(family: str, path: str) -> None:
    model = wrapped(family)
    assert bends(model) == path
    with pytest.raises(ModelError, match=f"{path} of {family} .* not linear"):
        write_scores(model, torch.eye(model.d_model)[:, :2])
    with pytest.raises(ModelError, match="not linear"):
        ll.observable(model, 5)


def test_behaviour_counts_and_not_the_name_of_a_class() -> None:
    hf = tiny_model("bert", seed=1)
    transform = hf.cls.predictions.transform
    transform.transform_act_fn, transform.LayerNorm = torch.nn.Identity(), torch.nn.Identity()
    model = LensModel.wrap(hf, None, name="linear transform")
    assert bends(model) is None
    scores = write_scores(model, torch.eye(model.d_model)[:, :3])
    dense, decoder = transform.dense.weight.detach(), hf.cls.predictions.decoder.weight.detach()
    plain = (decoder @ dense)[:, :3].T
    torch.testing.assert_close(scores, plain - plain.mean(1, keepdim=True), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "scale"), [("llama", 1.0), ("cohere", 0.0625), ("granite", 1 / 3), ("gemma2", 1.0)]
)
def test_a_scaled_head_scales_and_a_cap_is_left_out(family: str, scale: float) -> None:
    model = wrapped(family)
    hf = model.hf
    assert bends(model) is None
    scores = write_scores(model, torch.eye(model.d_model)[:, :3])
    gain = hf.model.norm.weight.detach() + (1.0 if family == "gemma2" else 0.0)
    columns = torch.eye(model.d_model)[:, :3]
    if family == "cohere":  # its norm takes the mean off
        columns = columns - columns.mean(0)
    plain = scale * (hf.lm_head.weight.detach() @ (gain[:, None] * columns)).T
    torch.testing.assert_close(scores, plain - plain.mean(1, keepdim=True), atol=1e-5, rtol=1e-4)


def test_a_direction_of_a_scaled_head_is_scaled() -> None:
    model = wrapped("granite")
    weights = torch.zeros(1, model.d_vocab, dtype=torch.float64)
    weights[0, 7] = 1
    with torch.enable_grad():
        found = final_direction(model, weights)[0]
    plain = model.hf.lm_head.weight.detach()[7] * model.hf.model.norm.weight.detach() / 3
    torch.testing.assert_close(found.float(), plain, atol=1e-6, rtol=1e-5)


def test_a_head_s_channels_say_why_what_they_write_has_no_tokens() -> None:
    found = ll.head_channels(wrapped("bert"), 0, 0, channels=2).data
    assert "ov_write_token" not in found
    assert "ov_read_token" in found
    assert "cls.predictions.transform leads to the logits and is not linear" in found.attrs["notes"]
