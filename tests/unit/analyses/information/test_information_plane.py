"""The information plane: against plain torch, at known answers, and with what does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import entropy as shared
from torch import nn

import layerlens as ll
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel

from .. import by_hooks

torch.manual_seed(0)
X = torch.rand(40, 3)
Y = [int(row.sum() * 2) % 2 for row in X]
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 2))


@pytest.fixture(scope="module")
def states(network: nn.Sequential) -> dict[int, State]:
    torch.manual_seed(1)
    return {
        step: {name: torch.randn_like(tensor) for name, tensor in network.state_dict().items()}
        for step in (0, 10)
    }


@pytest.fixture(scope="module")
def model() -> LensModel:
    return by_hooks.wrapped("llama")


def binned(values: np.ndarray, labels: list[int]) -> tuple[float, float]:
    """Entropy of the rows of bins, and less that within each label."""
    low, high = values.min(), values.max()
    rows = np.minimum(np.floor((values - low) / (high - low) * 30), 29)
    words = ["".join(map(str, row)) for row in rows]

    def of(which: list[int]) -> float:
        _, counts = np.unique([words[i] for i in which], return_counts=True)
        return float(shared(counts / counts.sum()))

    every = list(range(len(words)))
    sides = [[i for i in every if labels[i] == side] for side in (0, 1)]
    within = sum(len(side) / len(every) * of(side) for side in sides)
    return of(every), of(every) - within


def test_against_plain_torch(network: nn.Sequential, states: dict[int, State]) -> None:
    """Of each checkpoint put into the network by hand; which is as it was before."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    runs = ll.Runs(network.train(), states, layers=["1", "3"])
    found = ll.information_plane(runs, X, torch.tensor(Y))
    assert found.checks.ok and found.data.attrs["complete"] == 1
    assert network.training and all(
        torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items()
    )
    assert found.data.I_XT.dims == ("run", "layer")
    assert found.data.layer_name.values.tolist() == ["1", "3"]
    for step, state in states.items():
        hidden = torch.tanh(X @ state["0.weight"].T + state["0.bias"])
        answer = hidden @ state["3.weight"].T + state["3.bias"]
        for layer, values in enumerate((hidden, answer)):
            wanted = binned(values.double().numpy(), Y)
            here = found.data.sel(run=step, layer=layer)
            assert (float(here.I_XT), float(here.I_TY)) == pytest.approx(wanted)
    assert float(found.data.most) == pytest.approx(np.log(40))
    assert float(found.data.label_entropy) == pytest.approx(shared(np.bincount(Y) / 40))


def test_a_constant_layer_knows_nothing_and_a_copy_all(network: nn.Sequential) -> None:
    """Of weights that are 0, and 1 on the diagonal; four inputs of which two share a label."""
    pair = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    eye, zero = torch.eye(2), torch.zeros(2, 2)
    given = {
        name: {"0.weight": first, "0.bias": zero[0], "1.weight": second, "1.bias": zero[0]}
        for name, first, second in (("copy", eye, eye), ("lost", eye, zero))
    }
    inputs = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    found = ll.information_plane(ll.Runs(pair, given), inputs, [0, 0, 1, 1], shuffles=2).data
    ln = np.log(2)
    np.testing.assert_allclose(found.I_XT, [[2 * ln, 2 * ln], [2 * ln, 0]], atol=1e-12)
    np.testing.assert_allclose(found.I_TY, [[ln, ln], [ln, 0]], atol=1e-12)
    assert found.attrs["most_gain"] == pytest.approx(0) and "No layer has" in found.attrs["notes"]


def test_a_layer_that_seems_to_know_more_is_remarked_on() -> None:
    """Twice as long a step moves states apart that the noise had blurred."""
    wide = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    weights = {"0.weight": torch.tensor([[1.0]]), "1.weight": torch.tensor([[9.0]])}
    weights |= {name: torch.zeros(1) for name in ("0.bias", "1.bias")}
    found = ll.information_plane(
        ll.Runs(wide, [weights]), torch.rand(30, 1), [0, 1] * 15, estimator="kde"
    )
    upper, lower = found.data.I_XT.values[0], found.data.I_XT_lower.values[0]
    assert found.checks.ok and (lower < upper).all() and upper[1] > upper[0] + 0.5
    assert found.data.attrs["most_gain"] == pytest.approx(upper[1] - upper[0])
    assert "data-processing inequality" in found.data.attrs["notes"]


MEANT_NOTHING = np.random.default_rng(2).integers(0, 2, 40)


def test_labels_that_mean_nothing_are_found_where_every_input_has_its_bins() -> None:
    """By bins as much as of the true ones; by neighbours nothing."""
    plain = nn.Sequential(nn.Linear(3, 8))
    bins = ll.information_plane(ll.Runs(plain), X, MEANT_NOTHING).data
    assert float(bins.shuffled_I_TY[0, 0]) == pytest.approx(float(bins.I_TY[0, 0]), abs=0.05)
    found = ll.information_plane(ll.Runs(plain), X, MEANT_NOTHING, estimator="kraskov")
    assert found.checks.ok and abs(float(found.data.shuffled_I_TY[0, 0])) < 0.1
    assert (found.data.gaussian_bias[0, 1:] < 0).all() and "passes" in found.data.attrs


def test_of_models_that_read_texts(model: LensModel) -> None:
    """The states of the last token after each block, of two models side by side."""
    texts = [[5, i, 7 + i % 3] for i in range(12)]
    labelled = ll.texts(texts, label=[i % 3 for i in range(12)])
    runs = ll.Runs({"one": model, "same": model})
    found = ll.information_plane(runs, labelled, shuffles=3)
    assert found.checks.ok and found.data.layer_name.values.tolist()[0] == "embed"
    np.testing.assert_array_equal(found.data.I_XT[0], found.data.I_XT[1])
    # before the first block a state is its token, of which there are three
    assert float(found.data.I_XT[0, 0]) == pytest.approx(np.log(3))
    assert float(found.data.I_TY[0, 0]) == pytest.approx(np.log(3))
    with torch.no_grad():
        hidden = [
            model.hf(torch.tensor([t]), output_hidden_states=True).hidden_states for t in texts
        ]
    last = np.stack([depths[1][0, -1].double().numpy() for depths in hidden])
    labels = [i % 2 for i in range(12)]
    again = ll.information_plane(model, texts, labels, shuffles=3).data
    wanted = binned(last, labels)
    assert (float(again.I_XT[0, 1]), float(again.I_TY[0, 1])) == pytest.approx(wanted, abs=1e-6)


def test_it_is_estimated_and_its_call_is_short(network: nn.Sequential) -> None:
    many = torch.rand(500, 3)
    runs = ll.Runs(network, layers=["3"])
    assert ll.estimate(ll.information_plane, runs, many, [0, 1] * 250).seconds > 0
    found = ll.information_plane(runs, many, [0, 1] * 250, shuffles=2)
    assert found.code.startswith("ll.information_plane(model, inputs=inputs, labels=[0, 1, 0")
    assert found.data.attrs["load"] == "ll.Runs(networks, layers=['3'])"
    view = ll.CurvesView(runs, ll.information_plane, X, Y, shuffles=2)
    assert view.wait(60).checks.ok


def test_a_figure_has_lines_over_the_moments(
    network: nn.Sequential, states: dict[int, State]
) -> None:
    """Of more runs than layers a line is a layer; of more layers a run. Names have room."""
    many = dict.fromkeys((0, 1, 2, 50, 100), states[0])
    found = ll.information_plane(ll.Runs(network, many, layers=["1", "3"]), X, Y, shuffles=2)
    axes = found.figure("I_TY").axes[0]
    curves = [line for line in axes.get_lines() if line.get_gid() == "curve"]
    assert [line.get_label() for line in curves] == ["layer 1", "layer 3"]
    np.testing.assert_array_equal(curves[1].get_ydata(), found.data.I_TY[:, 1])
    assert [label.get_text() for label in axes.get_xticklabels()][-2:] == ["50", "100"]
    few = ll.information_plane(ll.Runs(network, states), X, Y, shuffles=2)
    curves = [line for line in few.figure("I_TY").axes[0].get_lines() if line.get_gid() == "curve"]
    assert [line.get_label() for line in curves] == ["run 0", "run 10"]
    np.testing.assert_array_equal(curves[1].get_ydata(), few.data.I_TY[1])


class Twice(nn.Module):
    """Runs one layer two times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.layer(self.layer(x)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"estimator": "knn"}, "Estimator of information_plane: 'knn'"),
        ({"bins": 1}, "bins is 1"),
        ({"span": (1, -1)}, r"span is \(1, -1\)"),
        ({"span": (0, 1e-3)}, "States reach from"),
        ({"noise": 0.0, "estimator": "kde"}, "noise is 0.0"),
        ({"noise": 1.0}, "noise of information_plane has an effect only"),
        ({"neighbours": 40, "estimator": "kraskov"}, "neighbours is 40"),
        ({"pool": "mean"}, "pool is for texts"),
        ({"shuffles": 0}, "shuffles is 0"),
        ({"labels": Y[:-1]}, "one label for each of the 40 inputs"),
        ({"labels": [0] * 40}, "All inputs have one label"),
        ({"inputs": X[:, :2]}, "could not be called as run 0 with inputs of shape"),
        ({"inputs": "text"}, "inputs is str"),
        ({"inputs": X[:1], "labels": [0]}, "a single input"),
    ],
)
def test_what_does_not_fit(network: nn.Sequential, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ll.information_plane(ll.Runs(network), **({"inputs": X, "labels": Y} | options))


def test_runs_that_do_not_fit(
    model: LensModel, network: nn.Sequential, states: dict[int, State]
) -> None:
    for given, options, words in (
        ({}, {}, "needs a network for each run"),
        ([model, network], {}, "not of both"),
        (model, {"checkpoints": states}, "checkpoints are state_dicts of one torch network"),
        (network, {"checkpoints": [1]}, "needs a state for each run"),
        (network, {"layers": ["9"]}, "has no module '9'; it has 0, 1"),
        (network, {"layers": ["0", "0"]}, "one twice"),
        (model, {"layers": ["0"]}, "leave it out for a model"),
    ):
        with pytest.raises(InputError, match=words):
            ll.Runs(given, **options)
    with pytest.raises(InputError, match="Layer 'layer' of Twice ran 2 times"):
        ll.information_plane(ll.Runs(Twice()), X, Y)
    with pytest.raises(InputError, match="could not be called as run 0"):
        ll.information_plane(ll.Runs(network, [{"0.weight": torch.zeros(1)}]), X, Y)
    with pytest.raises(InputError, match="texts have none of"):
        ll.information_plane(model, [[5, 6], [7, 8]], [0, 1], estimator="kraskov", neighbours=1)
    with pytest.raises(InputError, match="Runs are for"):
        ll.logit_lens(ll.Runs(network), "text")
