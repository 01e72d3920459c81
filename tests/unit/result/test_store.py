"""Saving and opening: exact, atomic, and clear when it fails."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from pathlib import Path

import h5py
import handmade as made
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from layerlens.errors import ResultError
from layerlens.result import Check, Result, files, open_result


@pytest.mark.parametrize("make", [made.result, made.batch])
def test_open_gives_what_was_saved(tmp_path: Path, make) -> None:
    result = make()
    path = result.save(tmp_path / "a.nc")
    opened = open_result(path)
    assert opened.identical(result)
    assert opened.model is None
    assert opened.checks == result.checks
    for name, array in result.data.variables.items():
        assert opened.data[name].dtype.kind == array.dtype.kind, name
        assert opened.data[name].attrs == array.attrs
    assert list(tmp_path.iterdir()) == [path]


def test_text_that_hdf5_cannot_hold_survives(tmp_path: Path) -> None:
    data = made.dataset()
    tokens = np.array(["a\0b", "\ud83d", "c", "", "e", "f", "g", "h", "i"])
    data = data.assign_coords(token=("position", tokens))
    data.attrs |= {"text": "a\0b\ud83d", "flags": True, "list": [1, "x"], "long": "é" * 300_000}
    result = Result("logit_lens", data)
    opened = open_result(result.save(tmp_path / "a.nc"))
    assert opened.data["token"].values.tolist() == tokens.tolist()
    for name in ("text", "flags", "list", "long", "seed"):
        assert opened.data.attrs[name] == data.attrs[name]
    assert "\ud83d" in set(opened.to_pandas()["token"])
    assert b"\\ud83d" in opened.csv(tmp_path / "a.csv").read_bytes()


@pytest.mark.parametrize("storage", ["python", "pyarrow"])
def test_strings_survive_however_pandas_stores_its_own(tmp_path: Path, storage: str) -> None:
    if storage == "pyarrow":
        pytest.importorskip("pyarrow")
    with pd.option_context("mode.string_storage", storage):
        test_text_that_hdf5_cannot_hold_survives(tmp_path)


def test_nan_and_infinity_in_checks_survive(tmp_path: Path) -> None:
    check = Check("nan", float("nan"), float("inf"), False, "NaN in the weights")
    opened = open_result(Result("x", made.dataset(), [check]).save(tmp_path / "a.nc"))
    assert np.isnan(opened.checks[0].error)
    assert opened.checks[0].limit == float("inf")


def test_no_tracked_tokens_and_units_of_time(tmp_path: Path) -> None:
    data = made.dataset().isel(tracked=slice(0, 0))
    data["entropy"].attrs["units"] = "seconds"
    result = Result("logit_lens", data)
    assert open_result(result.save(tmp_path / "a.nc")).identical(result)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    result, path = made.result(), tmp_path / "a.nc"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "_write_through", full)
    with pytest.raises(ResultError, match="disk is full; free some space"):
        result.save(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    assert open_result(result.save(path)).identical(result)


@pytest.fixture
def tiny_disk(tmp_path: Path):
    """A file system of 64 KiB, where the system lets us mount one."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(tiny_disk: Path) -> None:
    result = made.result(n_layers=30, tokens=["x"] * 200)
    with pytest.raises(ResultError, match="disk is full"):
        result.save(tiny_disk / "a.nc")
    assert list(tiny_disk.iterdir()) == []
    assert "next:" in repr(result)


def test_folder_missing_or_a_wrong_name(tmp_path: Path) -> None:
    result = made.result()
    with pytest.raises(ResultError, match="folder does not exist; make it first"):
        result.save(tmp_path / "no" / "a.nc")
    with pytest.raises(ResultError, match=r"ends in '\.pkl'; the name must end in \.nc"):
        result.save(tmp_path / "a.pkl")
    (tmp_path / "b.nc").mkdir()
    with pytest.raises(ResultError, match="is a folder"):
        result.save(tmp_path / "b.nc")
    assert [path.name for path in tmp_path.iterdir()] == ["b.nc"]


def test_files_that_are_not_ours(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="There is no file"):
        open_result(tmp_path / "none.nc")
    text = tmp_path / "text.nc"
    text.write_text("not a NetCDF file")
    with pytest.raises(ResultError, match="not a NetCDF file, or it is damaged"):
        open_result(text)
    foreign = tmp_path / "foreign.nc"
    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(foreign, engine="h5netcdf")
    with pytest.raises(ResultError, match="no result of layerlens; open it with xarray"):
        open_result(foreign)


def test_damaged_and_newer_files(tmp_path: Path) -> None:
    path = made.result().save(tmp_path / "a.nc")
    content = path.read_bytes()
    for size in (0, 8, 600, len(content) // 2):
        path.write_bytes(content[:size])
        with pytest.raises(ResultError):
            open_result(path)
    path.write_bytes(content)
    newer = xr.load_dataset(path, engine="h5netcdf")
    newer.attrs["layerlens_format"] = 99
    newer.to_netcdf(tmp_path / "newer.nc", engine="h5netcdf")
    with pytest.raises(ResultError, match=r"format 99 .* update layerlens"):
        open_result(tmp_path / "newer.nc")


def test_other_tools_read_the_file(tmp_path: Path) -> None:
    path = made.result().save(tmp_path / "a.nc")
    with xr.open_dataset(path, engine="h5netcdf") as data:
        assert data["entropy"].attrs["units"] == "nats"
        assert data["point"].values[-1] == "final"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file as it is written."""
    return made.result().save(tmp_path_factory.mktemp("sound") / "a.nc").read_bytes()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layerlens_format", "abc", "its format is abc"),
        ("layerlens_format", 1.5, "its format is 1.5"),
        ("layerlens_json", "[1]", "do not fit its data"),
        ("layerlens_json", '{"attrs": 3, "variables": []}', "do not fit its data"),
        ("options", "{{{", "'options' is '{{{'; expected a JSON object"),
        ("options", "[1]", "expected a JSON object"),
        ("options", 3, "expected a JSON object"),
        ("notes", "{}", "expected a JSON list"),
        ("vocab", '{"a": "b"}', "from token ids to texts"),
        ("vocab", '{"1": 2}', "from token ids to texts"),
        ("checks", "[1]", "a JSON list of checks"),
        ("checks", '[{"name": 1}]', "a JSON list of checks"),
        ("inputs", "[3]", "a JSON list of names"),
        ("model", 3, "expected a text"),
        ("n_layers", "three", "expected a number"),
    ],
)
def test_attributes_that_are_damaged_are_refused_at_once(
    sound: bytes, tmp_path: Path, name: str, value: object, message: str
) -> None:
    path = tmp_path / "a.nc"
    path.write_bytes(sound)
    with h5py.File(path, "a") as file:
        file.attrs[name] = value
    with pytest.raises(ResultError, match=re.escape(message)):
        open_result(path)


@pytest.mark.parametrize("name", ["clean_ids", "clean_tokens"])
def test_what_is_kept_of_several_texts_is_looked_at_too(tmp_path: Path, name: str) -> None:
    data = made.dataset().assign_attrs(inputs='["clean"]', **{name: "{"})
    path = Result("logit_lens", data).save(tmp_path / "a.nc")
    with pytest.raises(ResultError, match=f"'{name}' is '{{'; expected a JSON list"):
        open_result(path)


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    path = made.result().save(tmp_path / "a.nc")
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        with pytest.raises(ResultError):
            open_result(path)
