"""A wheel holds all it needs and works where there is no Node.

The archive is built once, installed without its dependencies into a fresh environment that sees
this environment's packages, and asked what a user would ask.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERSION = json.loads((ROOT / "js" / "package.json").read_text(encoding="utf-8"))["version"]
FRONT_END = [
    "layerlens/static/lens.js",
    "layerlens/static/metrics.js",
    "layerlens/static/patch.js",
    "layerlens/static/index.css",
    "layerlens/static/host.js",
    "layerlens/labextension/package.json",
    "layerlens/labextension/static/remoteEntry.js",
]


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run a command; return what it printed, or fail showing it."""
    done = subprocess.run(
        command, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="session")
def no_node(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment for commands in which neither Node nor the user's Jupyter is seen."""
    home = tmp_path_factory.mktemp("home")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "PYTHON", "HATCH"))}
    return {**kept, "PATH": os.defpath.split(":")[0] + "/nothing", "HOME": str(home)}


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory, no_node: dict[str, str]) -> dict[str, Path]:
    """An sdist of the checkout, and the wheel that is built from that sdist without Node."""
    if not all((ROOT / file).is_file() for file in FRONT_END):
        pytest.fail("The front end is not built; run `make test`, or `npm run build` in js/.")
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out]
    run(*build, cwd=ROOT, env=no_node)
    return {"sdist": next(out.glob("*.tar.gz")), "wheel": next(out.glob("*.whl"))}


@pytest.fixture(scope="session")
def installed(
    tmp_path_factory: pytest.TempPathFactory, archives: dict[str, Path], no_node: dict[str, str]
) -> Path:
    """The ``bin`` folder of an environment where the wheel, and nothing else, was installed."""
    place = tmp_path_factory.mktemp("env")
    venv.create(place, symlinks=True)
    bin_, python = place / "bin", place / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index"]
    run(*pip, "--no-deps", archives["wheel"], cwd=place, env=no_node)
    site = next((place / "lib").glob("python*/site-packages"))
    # Plain paths: .pth files of that folder, and with them the checkout, are not followed.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return bin_


def test_the_wheel_holds_the_front_end_the_tutorials_and_the_configuration(
    archives: dict[str, Path],
) -> None:
    names = zipfile.ZipFile(archives["wheel"]).namelist()
    data = f"jupyter_layerlens-{VERSION}.data/data"
    expected = [
        *FRONT_END,
        "layerlens/py.typed",
        "layerlens/model/tested.json",
        "layerlens/notebooks/00_tour.ipynb",
        f"{data}/share/jupyter/labextensions/layerlens/package.json",
        f"{data}/share/jupyter/labextensions/layerlens/install.json",
        f"{data}/share/jupyter/labextensions/layerlens/static/remoteEntry.js",
        f"{data}/etc/jupyter/jupyter_server_config.d/layerlens.json",
    ]
    assert [name for name in expected if name not in names] == []
    assert [name for name in names if "node_modules" in name or name.startswith("tests")] == []


def test_the_sdist_holds_what_is_built_and_what_it_is_built_from(
    archives: dict[str, Path],
) -> None:
    with tarfile.open(archives["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = [
        *FRONT_END,
        "js/src/widget.ts",
        "js/package-lock.json",
        "LICENSE",
        "tests/conftest.py",
    ]
    assert [name for name in expected if name not in names] == []
    assert [name for name in names if "node_modules" in name] == []


def test_both_extensions_are_enabled_after_an_install(
    installed: Path, no_node: dict[str, str]
) -> None:
    python, where = installed / "python", installed.parent
    # What `jupyter server extension` and `jupyter labextension` run.
    modules = "jupyter_server.extension.serverextension", "jupyterlab.labextensions"
    server, lab = (run(python, "-m", name, "list", cwd=where, env=no_node) for name in modules)
    assert f"layerlens {VERSION} OK" in plain(server)
    assert "layerlens enabled" in plain(server)
    assert f"layerlens v{VERSION} enabled OK" in plain(lab)


def test_the_installed_package_finds_its_parts(installed: Path, no_node: dict[str, str]) -> None:
    code = (
        "import layerlens, pathlib; from layerlens.course.places import guide;"
        "from layerlens.views.bundle import script;"
        "print(layerlens.__version__, pathlib.Path(layerlens.__file__).parent, guide(),"
        " all(len(script(view)) > 10_000 for view in ('lens', 'metrics', 'patch')))"
    )
    answer = run(installed / "python", "-c", code, cwd=installed, env=no_node).split()
    package = next((installed.parent / "lib").glob("python*/site-packages")) / "layerlens"
    assert answer == [VERSION, str(package), str(package / "notebooks"), "True"]


def test_the_lock_file_names_no_host() -> None:
    lock = json.loads((ROOT / "js" / "package-lock.json").read_text(encoding="utf-8"))
    assert [name for name, package in lock["packages"].items() if "resolved" in package] == []


def plain(text: str) -> str:
    """The text without colours and with single spaces."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())
