"""Other texts: who chooses a layer there and who judges it, and what noise comes to."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import layerlens as ll
from layerlens.analyses.probing.asked import Task
from layerlens.analyses.probing.few_shot import FewShot
from layerlens.analyses.probing.learner import Learner
from layerlens.analyses.probing.numbers import mean_between
from layerlens.analyses.probing.other_texts import Division, Shots
from layerlens.analyses.probing.transfer import choose_for
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
        ({"other_texts": other, "n_shot": 0}, "n_shot is 0"),
        ({"other_texts": other, "n_shot": 3, "other_apart": 0.4}, "of the other texts that do not"),
        ({"n_shot": 1}, "has an effect only"),
    ):
        with pytest.raises(InputError, match=words):
            ll.probe(model, given, **options | {"untrained": False} | more)


def test_few_examples_teach_what_lies_the_other_way_round(model: LensModel) -> None:
    """The first token says the label, and in the other texts the opposite one."""
    random = np.random.default_rng(0)

    def made(count: int) -> list[list[int]]:
        return [[7 + 30 * (i % 2), *random.integers(3, 95, 2).tolist()] for i in range(count)]

    options = {"labels": [i % 2 for i in range(40)], "position": 0, "folds": 3, "layers": [0, 1]}
    other = ll.texts(made(40), label=[1 - i % 2 for i in range(40)])
    data = ll.probe(model, made(40), other_texts=other, other_apart=0.5, n_shot=3, draws=8,
                    **options).data  # fmt: skip
    assert (data.transfer_accuracy.sel(of=["probe", "untrained"]) == 0).all()
    few = data.few_shot_accuracy
    assert (few.sel(of=["probe", "untrained"]) == 1).all()
    # dealt out anew, labels lead astray in some draws
    assert (few.sel(of="control") < 1).all() and (data.few_shot_accuracy_high <= 1).all()
    assert (few.sel(of="majority") == data.transfer_accuracy.sel(of="majority")).all()


def test_few_shots_are_those_that_scikit_learn_fits() -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 3, 90)
    states = (random.normal(size=(90, 6)) + np.eye(3, 6)[labels] * 1.5).astype(np.float32)
    task = Task(labels, np.arange(90), False, ("a", "b", "c"))
    part = Division(np.ones(90, bool), labels, np.arange(90), np.arange(90) >= 50)
    few = FewShot.of(part, task.classes, Shots(4, 6), 0)
    assert not few.taught[:, part.judge].any()
    for draw in few.taught:
        assert np.bincount(labels[draw]).tolist() == [4, 4, 4]
    assert len({tuple(draw) for draw in few.taught}) == 6
    found = []
    for draw in few.taught:
        scaler = StandardScaler().fit(states[draw])
        by_hand = LogisticRegression(C=0.5, max_iter=1000)
        by_hand.fit(scaler.transform(states[draw]), labels[draw])
        found.append(by_hand.score(scaler.transform(states[part.judge]), labels[part.judge]))
    told = few.accuracy(states, task, part, Learner("linear", 0), 0.5)
    assert told == pytest.approx((np.mean(found), *np.quantile(found, (0.025, 0.975))), abs=1e-9)
    # labels dealt out anew are those of the same examples, and what they teach is chance
    assert (np.sort(few.dealt[few.taught]) == np.sort(np.tile(labels, (6, 1))[few.taught])).all()
    more = FewShot.of(part, task.classes, Shots(4, 60), 0)
    blind = more.accuracy(states, task, part, Learner("linear", 0), 0.5, dealt=True)
    assert told[0] > 0.6 and abs(blind[0] - 1 / 3) < 0.07
