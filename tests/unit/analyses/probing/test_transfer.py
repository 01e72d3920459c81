"""Other texts: who chooses a layer there and who judges it, and what noise comes to."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import norm

import layerlens as ll
from layerlens.analyses.probing.numbers import mean_between
from layerlens.analyses.probing.transfer import Division, choose_for
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load(tiny_model("llama"))


class Sink:
    """A job that keeps what it is given."""

    def __init__(self) -> None:
        self.parts: list[tuple[dict, dict]] = []

    def emit(self, where: dict, arrays: dict) -> None:
        self.parts.append((where, arrays))


POINTS = [SimpleNamespace(layer=layer) for layer in range(-1, 8)]


def chosen(told: np.ndarray, judge: np.ndarray, inside: np.ndarray) -> tuple[list[int], dict]:
    sink = Sink()
    examples = np.arange(told.shape[1])
    part = Division(np.ones(len(examples), bool), examples, examples, judge)
    choose_for(sink, POINTS[-len(told) :], part, list(told), inside)
    first = sink.parts[0][1]
    return first["transfer_choice_layer"].tolist(), {w["choice"]: a for w, a in sink.parts[1:]}


def test_three_layers_are_chosen_and_none_by_what_judges() -> None:
    judge = np.arange(20) >= 5
    told = np.zeros((3, 20))
    told[0, judge] = 1.0  # the best where it is judged, and nobody can know
    told[1, :5] = 1.0  # the best on the part that chooses
    told[1, 5:11] = 1.0
    inside = np.array([0.2, 0.6, 0.9])
    layers, found = chosen(told, judge, inside)
    assert layers == [6, 7, 7]
    assert float(found[0]["transfer_choice_accuracy"]) == pytest.approx(6 / 15)
    assert float(found[0]["transfer_choice_difference"]) == pytest.approx(6 / 15)
    assert float(found[1]["transfer_choice_accuracy"]) == 0
    assert [float(found[2][f"transfer_choice_difference{end}"]) for end in ("", "_low", "_high")] \
        == [0, 0, 0]  # fmt: skip
    # of two that do as well, the one that does better inside
    told[2, :5] = 1.0
    assert chosen(told, judge, inside)[0][0] == 7


def test_the_best_layer_of_noise_is_at_chance() -> None:
    judge = np.arange(100) >= 20
    best, right = [], []
    for seed in range(30):
        random = np.random.default_rng(seed)
        told = random.integers(0, 2, (9, 100)).astype(float)
        _, found = chosen(told, judge, told.mean(1))
        best.append(told[:, judge].mean(1).max())
        right.append(float(found[0]["transfer_choice_accuracy"]))
    assert np.mean(best) > 0.56
    assert abs(np.mean(right) - 0.5) < 3 * np.std(right) / np.sqrt(30)


def test_a_difference_of_paired_answers_by_hand_and_by_the_normal() -> None:
    # 400 texts: one probe is right of 300, another of the same 300 and 20 more.
    one, other = np.arange(400) < 320, np.arange(400) < 300
    apart = one.astype(float) - other
    mean, low, high = mean_between(apart, np.arange(400))
    reach = norm.ppf(0.975) * apart.std() / 20
    assert mean == 0.05
    assert (low, high) == pytest.approx((0.05 - reach, 0.05 + reach), abs=0.004)
    assert low > 0  # the same shares of different texts would not be told apart
    # groups of four that agree: the interval is that of a hundred
    grouped = mean_between(np.repeat(apart[::4], 4), np.repeat(np.arange(100), 4))
    assert grouped[2] - grouped[1] == pytest.approx(2 * reach * 2, rel=0.15)
    # of two probes that are equally good, 95 of 100 intervals hold 0
    random = np.random.default_rng(0)
    held = 0
    for _ in range(60):
        both = random.integers(0, 2, (2, 80)).astype(float)
        _, low, high = mean_between(both[0] - both[1], np.arange(80))
        held += low <= 0 <= high
    assert held >= 52


def test_what_was_learned_is_tried_on_other_texts(model: LensModel) -> None:
    random = np.random.default_rng(0)
    given = [[7 + 30 * (i % 2), *random.integers(3, 95, 2).tolist()] for i in range(40)]
    options = {"labels": [i % 2 for i in range(40)], "position": 0, "folds": 3}
    there = [[7, 9], [37, 4], [37, 8], [37, 5], [7, 8]]
    other = ll.texts(there, label=[0, 1, 1, 1, 0])
    found = ll.probe(model, given, other_texts=other, other_apart=0.4, **options)
    data = found.data
    assert (data.transfer_accuracy.sel(of=["probe", "untrained"]) == 1).all()
    assert (data.transfer_normalised == 1).all()
    assert data.transfer_choice_layer.values.tolist() == [model.n_layers - 1] * 3
    assert (data.transfer_choice_accuracy == 1).all()
    judged = found.data.transfer_accuracy.sel(of="majority").values * 3
    assert np.allclose(judged, judged.round())  # a share of the three that judge
    again = ll.probe(model, given, other_texts=there, other_labels=[0, 1, 1, 1, 0],
                     other_apart=0.4, **options | {"untrained": False}).data  # fmt: skip
    assert (again.transfer_accuracy.sel(of="probe") == 1).all()
    for more, words in (
        ({"other_texts": [[7]], "other_labels": ["cat"]}, "labels cat, which were not learned"),
        ({"other_texts": [[7]]}, "other_texts have no labels"),
        ({"other_texts": other, "other_labels": [0] * 5}, "have labels of their own"),
        ({"other_texts": other, "other_apart": 1.0}, "other_apart is 1.0"),
        ({"other_texts": [[7]], "other_labels": [0]}, "one text or group"),
        ({"other_texts": other, "labels": [float(i) for i in range(40)]}, "labels are numbers"),
        ({"other_apart": 0.5}, "has an effect only"),
    ):
        with pytest.raises(InputError, match=words):
            ll.probe(model, given, **options | {"untrained": False} | more)
