"""Edge probing: labels of pairs of spans, a planted relation, and what words alone tell of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.probing.asked import points_of, where_of
from layerlens.analyses.probing.examples import recorded
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load(tiny_model("llama"))


SPANS = [
    [((0, 1), (2, 4)), ((2, 4), (0, 1))],
    ((1, 3), (4, 5)),
    [],
]


def test_the_state_of_a_pair_is_both_means_one_behind_the_other(model: LensModel) -> None:
    given = torch.randint(3, 95, (3, 6), generator=torch.Generator().manual_seed(0)).tolist()
    where = where_of("pair", SPANS)
    found = recorded(model, model.tokens(given), points_of(model, "resid_post", None), where, 10**9)
    assert found.text.tolist() == [0, 0, 1] and found.texts == 3
    assert found.type.tolist() == [-1, -1, -1]
    with torch.no_grad():
        hidden = model.hf(torch.tensor(given), output_hidden_states=True).hidden_states[1]
    wanted = [
        torch.cat([hidden[0, :1].mean(0), hidden[0, 2:4].mean(0)]),
        torch.cat([hidden[0, 2:4].mean(0), hidden[0, :1].mean(0)]),
        torch.cat([hidden[1, 1:3].mean(0), hidden[1, 4:5].mean(0)]),
    ]
    np.testing.assert_allclose(found.states[1], torch.stack(wanted).numpy(), atol=1e-5)


def test_a_relation_that_a_block_writes_is_read_from_there_on(model: LensModel) -> None:
    random = np.random.default_rng(0)
    given = random.integers(3, 95, (40, 5)).tolist()
    # of each text two pairs: one in which the first span governs the second, and its reverse
    spans = [[((0, 2), (3, 5)), ((3, 5), (0, 2))] for _ in given]
    governs = [bool(random.integers(0, 2)) for _ in given]
    labels = [["governs", "is governed"] if one else ["is governed", "governs"] for one in governs]
    role = torch.nn.functional.normalize(
        torch.randn(model.d_model, generator=torch.Generator().manual_seed(1)), dim=0
    )
    known = {tuple(ids): 1.0 if one else -1.0 for ids, one in zip(given, governs, strict=True)}
    fed: list[list[int]] = []

    def see(module: object, args: tuple) -> None:
        fed[:] = args[0].tolist()

    def plant(module: object, args: object, output: torch.Tensor) -> torch.Tensor:
        side = torch.tensor([1.0, 1.0, 0.0, -1.0, -1.0])
        signs = torch.tensor([known[tuple(ids)] for ids in fed])
        return output + 20 * (signs[:, None] * side)[..., None] * role

    hooks = [model.hf.get_input_embeddings().register_forward_pre_hook(see),
             model.hf.model.layers[1].register_forward_hook(plant)]  # fmt: skip
    try:
        found = ll.probe(model, given, labels=labels, position="pair", spans=spans, folds=3,
                         untrained=False, add_bos=False)  # fmt: skip
    finally:
        for hook in hooks:
            hook.remove()
    accuracy = found.data.accuracy.sel(of="probe")
    assert (accuracy.sel(point=["embed", "0_post"]) < 0.75).all()
    assert float(accuracy.sel(point="1_post")) >= 0.99
    assert found.checks.ok and found.data.attrs["examples"] == 80
    assert found.fitted["1_post.weight"].shape == (1, 2 * model.d_model)
    assert "1_post.direction" not in found.fitted.arrays  # nothing of a state alone


def test_what_does_not_fit_is_said(model: LensModel) -> None:
    given = [[3, 4, 5]] * 6
    pair = ((0, 1), (1, 3))
    for spans, labels, words in (
        (None, [*"ababab"], "needs spans=: for each text two spans"),
        ([(0, 1)] * 6, [*"ababab"], "spans are none of position='pair'"),
        ([pair] * 5, [*"ababab"], "There are 5 spans and 6 texts"),
        ([((0, 1), (1, 4))] * 6, [*"ababab"], r"none at \(1, 4\)"),
        ([[pair, pair]] * 6, [*"ababab"], "There are 6 labels and 12 pairs"),
    ):
        with pytest.raises(InputError, match=words):
            ll.probe(model, given, labels=labels, position="pair", spans=spans, untrained=False)
