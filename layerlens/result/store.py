"""A result as a NetCDF file and back, exactly.

The file is ordinary NetCDF 4: any tool can read its variables, axes, units and attributes. Text
that HDF5 cannot hold (NUL characters, lone surrogates) and attributes that are not numbers or
text are written as JSON, and an attribute of the file says which ones are.
"""

from __future__ import annotations

import io
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.errors import ResultError
from layerlens.result.attributes import require_sound
from layerlens.result.files import checked_path, read_bytes, write_bytes
from layerlens.result.strings import any_string

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

FORMAT = 1
"""Version of the file format; a reader refuses what is newer than itself."""

_FORMAT = "layerlens_format"
_AS_JSON = "layerlens_json"


def save_dataset(data: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write the data of a result to `path`, which must end in ``.nc``.

    Raises
    ------
    ResultError
        The name does not end in ``.nc``, the disk is full, the folder may not be written, or the
        data hold something that NetCDF cannot hold. An older file of that name stays as it was.
    """
    target = checked_path(path, ".nc")
    try:
        with any_string():
            content = _storable(data).to_netcdf(engine="h5netcdf")
    except (TypeError, ValueError, UnicodeError) as error:
        raise ResultError(f"'{target}' was not written: NetCDF cannot hold {error}.") from error
    return write_bytes(target, bytes(content))


def load_dataset(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read the data of a result that `save_dataset` wrote, into memory.

    Raises
    ------
    ResultError
        There is no such file, it is damaged, it is not one of ours, or it is from a newer version.
    """
    import xarray as xr

    content = io.BytesIO(read_bytes(path))
    try:
        # Units such as "seconds" are for people; decoded, they would become time differences.
        data = xr.load_dataset(
            content, engine="h5netcdf", decode_times=False, decode_timedelta=False
        )
    except Exception as error:
        raise ResultError(
            f"'{path}' is not a NetCDF file, or it is damaged; open a file that Result.save wrote."
        ) from error
    version = data.attrs.pop(_FORMAT, None)
    if version is None or "analysis" not in data.attrs:
        raise ResultError(
            f"'{path}' is a NetCDF file, but no result of layerlens; open it with xarray instead."
        )
    if not isinstance(version, int | np.integer):
        raise ResultError(
            f"'{path}' is damaged: its format is {version}, which is no whole number."
        )
    if version > FORMAT:
        raise ResultError(
            f"'{path}' has format {version} and this layerlens reads up to {FORMAT}; "
            "update layerlens to open it."
        )
    try:
        with any_string():
            found = _restored(data)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ResultError(f"'{path}' is damaged: its attributes do not fit its data.") from error
    try:
        require_sound(found)
    except ValueError as error:
        raise ResultError(f"'{path}' is damaged: {error}.") from error
    return found


def _storable(data: xr.Dataset) -> xr.Dataset:
    variables = [str(name) for name, array in data.variables.items() if _needs_json(array.values)]
    data = data.assign(
        {
            name: (data[name].dims, _map(json.dumps, data[name].values), data[name].attrs)
            for name in variables
        }
    )
    attrs: dict[str, Any] = {}
    as_json = []
    for name, value in data.attrs.items():
        plain = isinstance(value, str | int | float | np.number) and not isinstance(value, bool)
        if plain and not (isinstance(value, str) and _hard(value)):
            attrs[name] = value
        else:
            attrs[name] = json.dumps(value)
            as_json.append(name)
    attrs[_FORMAT] = FORMAT
    attrs[_AS_JSON] = json.dumps({"attrs": as_json, "variables": variables})
    stored = data.copy()
    stored.attrs = attrs
    return stored


def _restored(data: xr.Dataset) -> xr.Dataset:
    names = json.loads(data.attrs.pop(_AS_JSON, '{"attrs": [], "variables": []}'))
    for name in names["attrs"]:
        data.attrs[name] = json.loads(data.attrs[name])
    for name, value in data.attrs.items():
        data.attrs[name] = value.item() if isinstance(value, np.generic) else value
    texts = {
        name: (array.dims, array.values.astype(str), array.attrs)
        for name, array in data.variables.items()
        if array.dtype.kind == "O" and name not in names["variables"]
    }
    hard = {
        name: (data[name].dims, _map(json.loads, data[name].values), data[name].attrs)
        for name in names["variables"]
    }
    data = data.assign(texts | hard)
    for array in data.variables.values():
        array.encoding = {}
    data.encoding = {}
    return data


def _needs_json(values: Any) -> bool:
    array = np.asarray(values)
    return array.dtype.kind in "OUT" and any(_hard(str(text)) for text in array.flat)


def _hard(text: str) -> bool:
    return "\0" in text or any("\ud800" <= char <= "\udfff" for char in text)


def _map(function: Any, values: Any) -> Any:
    array = np.asarray(values)
    changed = np.empty(array.shape, dtype=object)
    for index, value in np.ndenumerate(array):
        changed[index] = function(str(value))
    return changed
