"""``ll.doctor()``: what layerlens finds on this machine, and what of it was never tested."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

import layerlens
from layerlens.errors import ModelError

#: What the browser is given; all of it is made by one build.
FRONT_END = ("lens.js", "metrics.js", "patch.js", "index.css", "host.js")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    topic
        ``versions``, ``devices``, ``files`` or ``front end``.
    what
        What was looked at.
    found
        What is there.
    remark
        What is wrong or untested about it, and what to do; empty where nothing is.
    """

    topic: str
    what: str
    found: str
    remark: str = ""


@dataclass(frozen=True)
class Doctor:
    """What `doctor` found; prints as text, shows as a table in a notebook.

    Attributes
    ----------
    findings
        Everything that was looked at.
    """

    findings: tuple[Finding, ...]

    @property
    def remarks(self) -> list[Finding]:
        """Only what is missing, wrong or untested."""
        return [finding for finding in self.findings if finding.remark]

    def summary(self) -> str:
        """One sentence on all of it."""
        count = len(self.remarks)
        if not count:
            return "Everything here is as tested."
        return (
            f"{count} of {len(self.findings)} findings {'has' if count == 1 else 'have'} a remark."
        )

    def __repr__(self) -> str:
        what = max(len(finding.what) for finding in self.findings)
        found = max(len(finding.found) for finding in self.findings)
        lines, topic = [self.summary()], ""
        for finding in self.findings:
            if finding.topic != topic:
                topic = finding.topic
                lines.append(topic)
            line = f"  {finding.what:{what}}  {finding.found:{found}}  {finding.remark}"
            lines.append(line.rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            "<tr>"
            + "".join(
                f'<td style="text-align:left">{escape(text)}</td>'
                for text in (finding.topic, finding.what, finding.found, finding.remark)
            )
            + "</tr>"
            for finding in self.findings
        )
        head = "".join(
            f'<th style="text-align:left">{name}</th>' for name in ("", "what", "found", "remark")
        )
        return (
            f"<p>{escape(self.summary())}</p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        )


def doctor() -> Doctor:
    """Look at versions, devices, files and the front end; change nothing.

    Returns
    -------
    Doctor
        Prints as text and shows as a table; ``remarks`` holds what is missing, wrong or untested.
        Add it to the report of a fault.

    Examples
    --------
    >>> import layerlens as ll
    >>> found = ll.doctor()
    >>> sorted({finding.topic for finding in found.findings})
    ['devices', 'files', 'front end', 'versions']
    """
    return Doctor((*_versions(), *_devices(), *_files(), *_front_end()))


def _versions() -> Iterator[Finding]:
    from layerlens.model.tested import installed, remark, tested

    yield Finding("versions", "layerlens", layerlens.__version__)
    for package in tested():
        yield Finding("versions", package, installed(package) or "-", remark(package) or "")


def _devices() -> Iterator[Finding]:
    import torch

    threads = f"{torch.get_num_threads()} of {os.cpu_count()} processors used"
    yield Finding("devices", "cpu", threads)
    untested = "no test of layerlens runs on it; each model is proven where it is loaded"
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        found = f"{about.name}, {about.total_memory / 2**30:.0f} GiB"
        yield Finding("devices", f"cuda:{index}", found, untested)
    if torch.backends.mps.is_available():
        yield Finding("devices", "mps", "available", untested)


def _files() -> Iterator[Finding]:
    from layerlens.model.cache import cache_root
    from layerlens.model.default import NAME, find

    root = cache_root()
    there = next(folder for folder in (root, *root.parents) if folder.is_dir())
    free = f"{shutil.disk_usage(there).free / 1e9:.1f} GB free"
    writable = "" if os.access(there, os.W_OK) else "cannot be written: set LAYERLENS_CACHE"
    yield Finding("files", "cache", f"{root}, {free}", writable)
    try:
        yield Finding("files", NAME, str(find()))
    except ModelError as error:
        yield Finding("files", NAME, "-", str(error))


def _front_end() -> Iterator[Finding]:
    from layerlens.views.bundle import STATIC

    yield _built("views", STATIC, FRONT_END)
    lab = STATIC.with_name("labextension")
    yield _built("JupyterLab extension", lab, ("package.json", "static/remoteEntry.js"))


def _built(what: str, folder: Path, names: tuple[str, ...]) -> Finding:
    missing = [name for name in names if not (folder / name).is_file()]
    if not missing:
        return Finding("front end", what, "built")
    how = "install a released wheel, or run `npm run build` in js/ of a checkout"
    return Finding("front end", what, "-", f"{', '.join(missing)} missing: {how}")
