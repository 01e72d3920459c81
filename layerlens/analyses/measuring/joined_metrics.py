"""Measured layers put together: several calls over the same texts, or two models side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import xarray as xr

from layerlens.analyses.contract.parts import Parts, Variable
from layerlens.analyses.measuring.measuring_run import axes_of, variables_of
from layerlens.metrics import registry
from layerlens.metrics.base import ModelShape
from layerlens.result import Checks, Result
from layerlens.result.beside_words import about_other
from layerlens.result.layers import OTHER, metrics_in, variables_in

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

Options = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Frame:
    """The arrays that a measurement fills, before any number is there."""

    variables: dict[str, Variable]
    sizes: dict[str, int]
    coords: dict[str, tuple[tuple[str, ...], Any]]

    @classmethod
    def of(cls, model: LensModel, names: Iterable[str], options: Options) -> Frame:
        """Return the arrays of some metrics of a model.

        Parameters
        ----------
        options
            Name of a metric to its options.

        Raises
        ------
        InputError
            A metric or an option is not known.
        SiteError
            The model has not what a metric reads.
        """
        shape = ModelShape.of(model)
        metrics = [registry.make(name, model, shape, options.get(name, {})) for name in names]
        variables = {
            name: variable
            for metric in metrics
            for name, variable in variables_of(type(metric)).items()
        }
        sizes, coords = axes_of(model, metrics, variables)
        return cls(variables, sizes, coords)

    @classmethod
    def of_data(cls, data: xr.Dataset) -> Frame:
        """Return the arrays of a result."""
        variables = {
            name: Variable(
                tuple(map(str, data[name].dims)),
                str(data[name].dtype),
                str(data[name].attrs.get("units", "1")),
                str(data[name].attrs.get("long_name", name)),
                int(data[name].attrs.get("missing", -1)),
            )
            for name in variables_in(data)
        }
        coords = {str(name): (tuple(map(str, c.dims)), c.values) for name, c in data.coords.items()}
        return cls(variables, {str(dim): size for dim, size in data.sizes.items()}, coords)

    def beside(self, other: Frame) -> Frame:
        """Return these arrays and another model's."""
        moved = {
            OTHER + name: Variable(
                tuple(OTHER + dim for dim in v.dims),
                v.dtype,
                v.units,
                v.long_name,
                v.missing,
                v.is_token,
                source=v.source,
                formula=v.formula,
            )
            for name, v in other.variables.items()
        }
        sizes = {OTHER + dim: size for dim, size in other.sizes.items()}
        coords = {
            OTHER + name: (tuple(OTHER + dim for dim in dims), values)
            for name, (dims, values) in other.coords.items()
        }
        return Frame(self.variables | moved, self.sizes | sizes, self.coords | coords)

    def blank(self, attrs: Mapping[str, Any]) -> xr.Dataset:
        """Return data without numbers."""
        names = json.dumps(list(self.variables))
        parts = Parts(self.variables, self.sizes, self.coords, batched=False)
        return parts.dataset({**attrs, "variables": names})


def joined(results: Sequence[Result], names: Sequence[str], remarks: Iterable[str] = ()) -> Result:
    """Return one result of several calls over the same texts.

    Parameters
    ----------
    results
        Of ``layer_metrics``, with the same model, texts and options but for the metrics.
    names
        The metrics to keep, in their order.
    remarks
        More to tell the reader.
    """
    last = results[-1]
    kept: dict[str, int] = {
        variable: index
        for index, result in enumerate(results)
        for name in names
        if name in metrics_in(result.data)
        for variable in variables_of(registry.get(name))
    }
    order = [v for name in names for v in variables_of(registry.get(name)) if v in kept]
    datasets = [
        result.data[[name for name in order if kept[name] == index]]
        for index, result in enumerate(results)
    ]
    data = xr.merge(datasets, compat="override", join="override", combine_attrs="override")[order]
    checks = {
        (check.name, check.what): check
        for result in results
        for check in result.checks
        if check.name.partition(": ")[0] in names or ": " not in check.name
    }
    told = {
        **last.data.attrs,
        **_together([result.data.attrs for result in results], remarks),
        "metrics": json.dumps(list(names)),
        "variables": json.dumps(order),
    }
    data.attrs = {key: value for key, value in told.items() if key != "analysis"}
    return Result(last.analysis, data, checks.values(), last.code, last.model)


def _together(attrs: Sequence[Mapping[str, Any]], remarks: Iterable[str]) -> dict[str, Any]:
    """Return the attributes that several calls have in common."""
    notes = dict.fromkeys(note for one in attrs for note in json.loads(one["notes"]))
    vocab = {key: text for one in attrs for key, text in json.loads(one["vocab"]).items()}
    missing = {key: gap for one in attrs for key, gap in json.loads(one["missing"]).items()}
    return {
        "notes": json.dumps([*(notes | dict.fromkeys(remarks))], ensure_ascii=False),
        "vocab": json.dumps(vocab, ensure_ascii=False),
        "missing": json.dumps(missing),
        "complete": int(not missing),
        "seconds": math.fsum(one["seconds"] for one in attrs),
        "passes": math.fsum(one["passes"] for one in attrs),
    }


def beside(result: Result, other: xr.Dataset, label: str) -> Result:
    """Return a result with another model's numbers beside it, as ``other.<name>``.

    Parameters
    ----------
    result, other
        Of ``layer_metrics``; what of `other` has no counterpart is left out.
    label
        What to call the other model.
    """
    own = variables_in(result.data)
    names = [name for name in variables_in(other) if name in own]
    chosen = other[names]
    moved = chosen.rename({name: OTHER + str(name) for name in {*chosen.variables, *chosen.dims}})
    data = result.data.merge(moved.drop_attrs(deep=False), combine_attrs="override")
    data.attrs |= about_other(other.attrs, label)
    data.attrs["variables"] = json.dumps(own + [OTHER + name for name in names])
    checks = [
        check._replace(name=f"{OTHER}{check.name}")
        for check in Checks.from_json(other.attrs.get("checks", "[]"))
    ]
    return Result(result.analysis, data, [*result.checks, *checks], result.code, result.model)
