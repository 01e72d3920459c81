"""A lens that decodes otherwise than the logit lens, against plain products."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import layerlens as ll
from layerlens.analyses.contract import registry
from layerlens.analyses.contract.contract import Analysis, Job, Work, analysis
from layerlens.analyses.lenses import memory
from layerlens.analyses.lenses.lens import Lens
from layerlens.analyses.lenses.points import lens_points
from layerlens.analyses.lenses.variables import VARIABLES
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.model.lensmodel import LensModel
from layerlens.run.resolve import resolve_counted

IDS = [5, 9, 5, 3, 200, 17]


@pytest.fixture
def moved_lens(monkeypatch: pytest.MonkeyPatch) -> Analysis:
    """A lens that adds a vector to the states of each layer before it decodes them."""
    registry.names()
    monkeypatch.setattr(registry, "_ANALYSES", dict(registry._ANALYSES))

    @analysis(
        name="moved_lens",
        question="What if states are moved first?",
        source="made up",
        cost="1 pass",
        view="lens",
        variables=VARIABLES,
        work=lambda model, tokens, **_: Work(1, 0, 1),
        needs=("head",),
    )
    def moved_lens(job: Job, model: LensModel, tokens: Any, *, shifts: Any = None) -> None:
        """Decode moved states."""
        Lens(
            job,
            model,
            tokens,
            resolve_counted(model, tokens, ()),
            Cells(model, tokens, None),
            lens_points(model, ("embed", "post")),
            2,
            [],
            400_000_000,
            decoders=[
                lambda point, state: model.head_input(state + shifts[point.layer + 1]),
            ],
        ).run()

    return moved_lens


def test_states_are_decoded_as_the_lens_says(moved_lens: Analysis, model: LensModel) -> None:
    shifts = torch.randn(model.n_layers + 1, model.d_model) * 2
    found = moved_lens(model, IDS, shifts=shifts)
    assert found.checks.ok
    trace = ll.record(model, IDS, ["resid_pre.0", "resid_post"])
    states = [
        trace["resid_pre", 0],
        *(trace["resid_post", layer] for layer in range(model.n_layers)),
    ]
    for row, state in enumerate(states):
        with torch.no_grad():
            logits = model.unembed(state[0] + shifts[row])
        best = logits.softmax(-1).max(-1)
        assert found.data.token_id[row, :, 0].values.tolist() == best.indices.tolist()
        seen = torch.from_numpy(found.data.probability[row, :, 0].values)
        torch.testing.assert_close(seen, best.values, rtol=1e-4, atol=1e-6)
    own = ll.logit_lens(model, IDS, points=("embed", "post")).data
    assert (own.token_id[-1, :, 0] == found.data.token_id[-1, :, 0]).all()


def test_a_second_pass_decodes_alike(
    moved_lens: Analysis, gpt2: LensModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifts = torch.randn(gpt2.n_layers + 1, gpt2.d_model)
    once = moved_lens(gpt2, IDS, shifts=shifts).data
    monkeypatch.setattr(memory, "STORE_SHARE", 0)
    again = moved_lens(gpt2, IDS, shifts=shifts).data
    assert (once.attrs["passes"], again.attrs["passes"]) == (1, 2)
    torch.testing.assert_close(
        torch.from_numpy(again.kl_to_final.values),
        torch.from_numpy(once.kl_to_final.values),
        rtol=1e-3,
        atol=1e-5,
    )
