"""Declaring, running, stopping and describing an analysis, with a made-up one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
import layerlens.analyses
from layerlens.analyses.contract import registry
from layerlens.analyses.contract.contract import Analysis, Job, Variable, Work, analysis
from layerlens.analyses.contract.listeners import Bar
from layerlens.analyses.contract.options import code, plain
from layerlens.analyses.contract.parts import Parts
from layerlens.errors import Cancelled, InputError
from layerlens.model.lensmodel import LensModel


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Analysis:
    """An analysis that counts, layer by layer, and can be told to stop."""
    registry.names()  # what is found while the copy is in place would be lost with it
    monkeypatch.setattr(registry, "_ANALYSES", dict(registry._ANALYSES))

    @analysis(
        name="count",
        question="How many?",
        source="made up",
        cost="0",
        view="curves",
        variables={
            "number": Variable(("layer",), "float32", "1", "a number"),
            "whole": Variable(("layer",), "int32", "1", "a whole number", missing=-7),
            "extra": Variable(("other",), "float32", "1", "only with an axis that may lack"),
        },
        work=lambda model, tokens, *, step, **_: Work(step, 3, 4),
    )
    def count(
        job: Job,
        model: Any,
        tokens: Any,
        *,
        step: int = 1,
        stop_after: int = 99,
        fail_with: Any = None,
    ) -> None:
        """Count."""
        lead = {} if tokens.single else {"batch": len(tokens.lengths)}
        job.declare({"layer": 3, **lead}, {"layer": (("layer",), np.arange(3))})
        for layer in range(4):
            if layer == stop_after:
                raise fail_with or KeyboardInterrupt
            if layer == 3:
                break
            shape = tuple(lead.values())
            value = np.full(shape, layer * step)
            job.emit({"layer": layer}, {"number": value, "whole": value})
            job.progress(layer + 1, 3)
        job.check("sum", 0.5, 1.0, "made up")
        job.note(passes=0)

    return count


def test_a_result_has_its_provenance(count: Analysis, gpt2: LensModel) -> None:
    result = count(gpt2, [1, 2], step=2)
    assert result.analysis == "count"
    assert result.data.number.values.tolist() == [0, 2, 4]
    assert "extra" not in result.data
    attrs = result.data.attrs
    assert attrs["code"] == result.code == "ll.count(model, [1, 2], step=2)"
    assert attrs["model"] == "tiny gpt2"
    assert attrs["dtype"] == "float32"
    assert attrs["passes"] == 0
    assert attrs["complete"] == 1
    assert json.loads(attrs["options"])["step"] == 2
    assert json.loads(attrs["versions"])["torch"] == torch.__version__
    assert json.loads(attrs["vocab"]) == {"1": "[1]", "2": "[2]"}
    assert [(check.name, check.ok) for check in result.checks] == [("sum", True)]


def test_several_texts_add_a_batch_axis(count: Analysis, gpt2: LensModel) -> None:
    result = count(gpt2, torch.tensor([[1, 2], [3, 4]]))
    assert result.data.number.dims == ("batch", "layer")
    assert result.data.number.values.tolist() == [[0, 1, 2]] * 2


def test_an_interrupt_leaves_a_partial_result(count: Analysis, gpt2: LensModel) -> None:
    with pytest.raises(Cancelled, match="partial") as caught:
        count(gpt2, [1, 2], stop_after=2)
    data = caught.value.partial.data  # type: ignore[union-attr]
    np.testing.assert_array_equal(data.number, [0, 1, np.nan])
    assert data.whole.values.tolist() == [0, 1, -7]
    assert json.loads(data.attrs["missing"]) == {"number": [2], "whole": [2]}


@pytest.mark.parametrize("error", [ValueError("no number"), np.linalg.LinAlgError("singular")])
def test_an_error_keeps_what_was_finished(
    count: Analysis, gpt2: LensModel, error: Exception
) -> None:
    with pytest.raises(type(error), match=str(error)) as caught:
        count(gpt2, [1, 2], fail_with=error, stop_after=2)
    assert caught.value is error
    data = error.partial.data  # type: ignore[attr-defined]
    np.testing.assert_array_equal(data.number, [0, 1, np.nan])
    assert data.attrs["complete"] == 0
    assert str(error) in json.loads(data.attrs["notes"])[-1]
    (note,) = error.__notes__
    assert ".partial of this error" in note


def test_an_error_before_anything_was_computed_has_no_partial(
    count: Analysis, gpt2: LensModel
) -> None:
    error = ValueError("no number")
    with pytest.raises(ValueError, match="no number"):
        count(gpt2, [1, 2], fail_with=error, stop_after=0)
    assert not hasattr(error, "partial")
    with pytest.raises(Cancelled, match="before anything") as caught:
        count(gpt2, [1, 2], stop_after=0)
    assert caught.value.partial is None


def test_an_error_in_the_checks_leaves_a_result_that_is_not_complete(
    count: Analysis, gpt2: LensModel
) -> None:
    error = ValueError("no check")
    with pytest.raises(ValueError, match="no check"):
        count(gpt2, [1, 2], fail_with=error, stop_after=3)
    attrs = error.partial.data.attrs  # type: ignore[attr-defined]
    assert (attrs["complete"], json.loads(attrs["missing"])) == (0, {})


def test_two_analyses_of_one_name_are_refused(count: Analysis) -> None:
    def register(function: Any) -> Analysis:
        return analysis(
            name="count",
            question="How many?",
            source="made up",
            cost="0",
            view="curves",
            variables={},
            work=lambda model, tokens: Work(0, 0, 0),
        )(function)

    def other(job: Job, model: Any, tokens: Any) -> None:
        """Count otherwise."""

    with pytest.raises(InputError, match="Two analyses are called 'count'"):
        register(other)
    assert registry.get("count") is count
    again = register(count.__wrapped__)  # the cell was run once more
    assert registry.get("count") is again


def test_every_module_of_analyses_is_imported() -> None:
    registry.names()
    root = Path(layerlens.analyses.__path__[0])
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(["layerlens.analyses", *parts]).removesuffix(".__init__")
        assert name in sys.modules


def test_a_misspelt_option_names_the_nearest(count: Analysis, gpt2: LensModel) -> None:
    with pytest.raises(InputError, match="did you mean 'step'"):
        count(gpt2, [1], stepp=2)


def test_a_model_that_was_not_loaded_is_refused(count: Analysis, gpt2: LensModel) -> None:
    with pytest.raises(InputError, match=r"ll\.load\(hf_model, tokenizer\)"):
        count(gpt2.hf, [1])  # type: ignore[arg-type]


def test_the_table_lists_every_analysis(count: Analysis) -> None:
    table = ll.analyses()
    assert list(table.columns) == ["question", "method", "cost", "source", "view"]
    assert table.loc["count", "question"] == "How many?"
    assert table.loc["logit_lens", "view"] == "lens"


def test_estimates_say_passes_seconds_bytes_and_how(count: Analysis, gpt2: LensModel) -> None:
    found = ll.estimate("count", gpt2, [1, 2], step=5)
    assert (found.passes, found.bytes) == (5, 4)
    assert found.seconds > 0
    assert "GFLOP/s" in found.how
    itself = ll.estimate(count, gpt2, [1, 2], step=5)
    assert (itself.passes, itself.bytes) == (5, 4)
    with pytest.raises(InputError, match="did you mean 'count'"):
        ll.estimate("cuont", gpt2, [1])
    with pytest.raises(InputError, match="the name of an analysis, or one such as"):
        ll.estimate(gpt2, count, [1])  # type: ignore[arg-type]


def test_the_lens_estimate_counts_what_the_lens_does(gpt2: LensModel) -> None:
    ids = list(range(20))
    work = ll.logit_lens.work(gpt2, ids)
    attrs = ll.logit_lens(gpt2, ids).data.attrs
    assert work.passes == attrs["passes"]
    own_answers, mean_rows = 8, 20
    # The estimate cannot know that the last state is what the head is fed (one point less).
    assert work.head_rows - own_answers - mean_rows == attrs["head_rows"] + 20
    assert 0 < work.bytes < 400e6


def test_help_shows_the_options(count: Analysis) -> None:
    assert str(count.__signature__) == (
        "(model, text, *, step=1, stop_after=99, fail_with=None, add_bos=None)"
    )
    assert count.__doc__ == "Count."


def test_code_is_a_call_that_parses() -> None:
    known = {"a": 1, "where": None, "names": ()}
    text = code("f", "it's", {"a": 2, "where": slice(1, None), "names": (" x", 3)}, known)
    assert text == "ll.f(model, \"it's\", a=2, where=slice(1, None, None), names=(' x', 3))"
    assert code("f", ["a", "b"], known, known) == "ll.f(model, ['a', 'b'])"
    assert code("f", torch.tensor([1, 2]), known, known) == "ll.f(model, [1, 2])"


def test_parts_report_what_never_came() -> None:
    variable = Variable(("point", "position"), "float32", "1", "x")
    coords = {"point": (("point",), ["a", "b", "c"])}
    parts = Parts({"x": variable}, {"batch": 2, "point": 3, "position": 2}, coords, batched=True)
    parts.put({"point": 0}, {"x": np.ones((2, 2))})
    parts.put({"point": 2, "batch": 1}, {"x": np.ones(2)})
    assert parts.missing() == {"x": ["b", "c"]}


def test_a_short_call_shows_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("quick") as bar:
        for step in range(5):
            bar.on_progress(step + 1, 5, "layer")
    assert capsys.readouterr().err.strip() == ""


def test_an_analysis_of_two_texts_has_both_in_its_provenance(
    monkeypatch: pytest.MonkeyPatch, gpt2: LensModel
) -> None:
    registry.names()  # what is found while the copy is in place would be lost with it
    monkeypatch.setattr(registry, "_ANALYSES", dict(registry._ANALYSES))

    @analysis(
        name="differ",
        question="Where do they differ?",
        source="made up",
        cost="0",
        view="grid",
        variables={
            "differs": Variable(("position",), "float32", "1", "whether"),
            "share": Variable((), "float32", "1", "share of texts", summary=True),
        },
        work=lambda model, clean, corrupt, *, metric: Work(2, 0, 0),
        inputs=("clean", "corrupt"),
    )
    def differ(job: Job, model: Any, clean: Any, corrupt: Any, *, metric: Any = None) -> None:
        """Compare."""
        lead = {} if clean.single else {"batch": len(clean.ids)}
        job.declare({"position": clean.ids.shape[1], **lead}, {})
        job.emit({}, {"differs": (clean.ids != corrupt.ids).numpy().reshape(*lead.values(), -1)})
        if lead:
            job.emit({}, {"share": np.float32(0.5)})
        job.remark("a remark")

    def my_metric(logits: Any) -> Any:
        return logits

    result = differ(gpt2, [1, 2], corrupt=[1, 3], metric=my_metric)
    attrs = result.data.attrs
    assert result.code == "ll.differ(model, clean=[1, 2], corrupt=[1, 3], metric=my_metric)"
    assert json.loads(attrs["inputs"]) == ["clean", "corrupt"]
    assert json.loads(attrs["corrupt_ids"]) == [1, 3]
    assert json.loads(attrs["corrupt_tokens"]) == ["[1]", "[3]"]
    assert attrs["corrupt_text"] == "[1][3]"
    assert json.loads(attrs["options"])["metric"] == "my_metric()"
    assert set(json.loads(attrs["vocab"])) == {"1", "2", "3"}
    assert json.loads(attrs["notes"]) == ["a remark"]
    assert result.data.differs.values.tolist() == [0, 1]
    assert "share" not in result.data
    assert str(differ.__signature__) == "(model, clean, corrupt, *, metric=None, add_bos=None)"

    several = differ.run(gpt2, {"corrupt": [[1], [3]], "clean": [[1], [2]]}).data
    assert several.differs.dims == ("batch", "position")
    assert several.share.dims == ()
    assert json.loads(several.attrs["clean_ids"]) == [[1], [2]]
    assert differ.estimate(gpt2, [1], [2]).passes == 2

    with pytest.raises(InputError, match="corrupt was not given"):
        differ(gpt2, [1])
    with pytest.raises(InputError, match="not 3 texts"):
        differ(gpt2, [1], [2], [3])
    with pytest.raises(InputError, match="did you mean 'clean'"):
        differ.run(gpt2, {"clean": [1], "corrupt": [2], "cleam": [3]})


def test_an_option_that_is_an_object_is_named(gpt2: LensModel) -> None:
    known = {"other": None, "metric": None}
    written = code("f", [1], {"other": gpt2, "metric": lambda logits: logits}, known)
    assert written == "ll.f(model, [1], other=other, metric=metric)"


def test_a_function_called_like_the_default_is_not_the_default() -> None:
    def logit_diff(logits: Any) -> Any:
        return logits

    known = {"metric": "logit_diff"}
    assert code("f", [1], {"metric": logit_diff}, known) == "ll.f(model, [1], metric=logit_diff)"
    assert plain(logit_diff) == "logit_diff()"


def test_an_axis_may_be_there_only_where_it_is_declared() -> None:
    variable = Variable(("layer", "head?", "position?"), "float32", "1", "x")
    coords: dict[str, Any] = {}
    found = Parts({"x": variable}, {"layer": 2, "position": 3}, coords, batched=False)
    assert found.dims["x"] == ("layer", "position")
    found.put({"layer": 1, "position": 0}, {"x": np.float32(1)})
    assert found.missing() == {"x": [0, 1]}
    assert Parts({"x": variable}, {"head": 2}, coords, batched=False).dims == {}
