"""Pages of features as JSON: what is written is read, and what does not agree is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import layerlens as ll
from layerlens.errors import InputError, ResultError
from layerlens.result import Result

from ..small_calls import small_sae

TEXTS = [[5, 9, 1, 3, 7, 5, 2, 8], [4, 8, 1, 6, 2, 3, 3, 9], [9, 2, 4, 4, 1, 8, 7, 7]]


@pytest.fixture(scope="module")
def page() -> Result:
    model = ll.load("toy:induction")
    return ll.feature(model, TEXTS, small_sae(model), 2, k=3, bands=3, around=2, per_band=2)


def test_what_is_written_is_read(page: Result, tmp_path: Path) -> None:
    again = ll.import_feature(ll.export_feature(page, tmp_path / "feature.json"))
    data, model = page.data, ll.load("toy:induction")
    there = data["position"].values >= 0
    assert there.sum() > 3 and int(again.number) == 2
    np.testing.assert_allclose(again["activation"], data["activation"].values[there])
    np.testing.assert_array_equal(again["group"], data["group"].values[there])
    for row, example in enumerate(np.flatnonzero(there).tolist()):
        text, at = TEXTS[int(data["text"][example])], int(data["position"][example])
        words = [model.token_string(i) for i in text[max(0, at - 2) : at + 3]]
        assert [word for word in again["word"].values[row] if word] == words
        assert again["word"].values[row, int(again["place"][row])] == model.token_string(text[at])
    for name in ("count", "bin_top"):
        np.testing.assert_allclose(again[name], data[name], rtol=1e-6)
    bands = again["band_end"].values
    np.testing.assert_allclose(bands[:-1], data["band_from"].values[::-1])
    assert bands[0] == 0 and bands[-1] == float(data.largest)
    raised = [model.token_string(int(i)) for i in data["effect_token"].values[0]]
    assert again["raised"].values.tolist() == raised


def test_its_names_are_those_of_the_files(page: Result, tmp_path: Path) -> None:
    told = json.loads(
        ll.export_feature(page, tmp_path / "f.json", transcoder_id="mine").read_text()
    )
    named = {"transcoder_id", "index", "examples_quantiles", "top_logits", "bottom_logits"}
    named |= {"act_min", "act_max", "quantile_values", "histogram", "activation_frequency"}
    assert named <= set(told) and told["transcoder_id"] == "mine"
    names = [each["quantile_name"] for each in told["examples_quantiles"]]
    assert names == ["Top activations", *(f"Subsample Interval {i}" for i in range(3))]
    assert sum(told["histogram"]) == told["firings"]
    share = told["firings"] / told["tokens_counted"]
    assert told["activation_frequency"] == pytest.approx(share)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"histogram": [1]}, "adds up to 1"),
        ({"activation_frequency": 2.0}, "a frequency of 2"),
        ({"quantile_values": [0.0, 5.0, 1.0]}, "do not rise"),
        ({"quantile_values": [0.0, 0.0]}, "ends at 0"),
        ({"act_max": None}, "no page of a feature"),
    ],
    ids=str,
)
def test_what_does_not_agree_is_refused(
    changed: dict[str, object], words: str, page: Result, tmp_path: Path
) -> None:
    path = ll.export_feature(page, tmp_path / "feature.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(InputError, match=words):
        ll.import_feature(path)


def test_what_is_no_page_is_refused(tmp_path: Path) -> None:
    lens = ll.logit_lens(ll.load("toy:induction"), "cat dog")
    with pytest.raises(ResultError, match="no page of a feature"):
        ll.export_feature(lens, tmp_path / "feature.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(InputError, match="no JSON"):
        ll.import_feature(tmp_path / "x.json")
