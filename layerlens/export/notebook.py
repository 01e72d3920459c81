"""A notebook as one page that needs no kernel, no server and no network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from layerlens.errors import InputError, ResultError
from layerlens.export.html import POLICY
from layerlens.export.inline import EVERYWHERE
from layerlens.result.files import as_path, checked_path, write_bytes

# nbconvert's own page loads scripts from elsewhere, for formulas and for widgets.
_PAGE = f"""{{% extends 'lab/index.html.j2' %}}
{{% block html_head %}}<meta http-equiv="Content-Security-Policy" content="{POLICY}">
{{{{ super() }}}}{{% endblock %}}
{{% block html_head_js %}}{{% endblock %}}
{{% block jupyter_widgets %}}{{% endblock %}}
{{% block html_head_js_mathjax %}}{{% endblock %}}
{{% block html_head_js_mermaidjs %}}{{% endblock %}}
"""


def export_notebook(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    code: bool = True,
    timeout: float = 600,
) -> Path:
    """Run a notebook and write it as one offline page, its figures still to be handled.

    It is run from its first cell to its last in a kernel of its own, in its own folder; the
    notebook's file stays as it is. Every view, and every result that a cell shows, lies in the page
    with its data; questions of a course can be answered, and reveal what was computed when the page
    was made. Formulas stay as they are written. The page is forbidden to make any request, so that
    a picture which a cell of text only links to stays on the net.

    Parameters
    ----------
    path : path-like
        The notebook, ending in ``.ipynb``.
    out : path-like, optional
        Where the page is written, ending in ``.html``; by itself beside the notebook.
    code : bool
        Whether the page shows the code of the cells.
    timeout : float
        Seconds that one cell may take.

    Returns
    -------
    Path
        Where the page is.

    Raises
    ------
    InputError
        It is no notebook, or one of its cells raised; the error says which, and what.
    ResultError
        nbconvert is not installed, or the page could not be written.

    Examples
    --------
    >>> import layerlens as ll, nbformat
    >>> text = nbformat.v4.new_markdown_cell("# What does the first layer do?")
    >>> nbformat.write(nbformat.v4.new_notebook(cells=[text]), "chapter.ipynb")
    >>> ll.export_notebook("chapter.ipynb").name
    'chapter.html'
    """
    source = as_path(path)
    target = checked_path(source.with_suffix(".html") if out is None else out, ".html", ".htm")
    notebook = _executed(source, timeout)
    return write_bytes(target, _page(notebook, source.stem, code).encode("utf-8"))


def _executed(path: Path, timeout: float) -> Any:
    try:
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellControlSignal, CellExecutionError
    except ImportError:
        raise ResultError(
            "A page of a notebook is made with nbconvert, which is not here: "
            "pip install 'jupyter-layerlens[pages]'."
        ) from None
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:
        raise InputError(f"The notebook '{path}' could not be read: {error}.") from None
    folder = {"metadata": {"path": str(path.resolve().parent)}}
    client = NotebookClient(notebook, timeout=timeout, resources=folder, allow_errors=False)
    try:
        client.execute(env={**os.environ, EVERYWHERE: "1"})
    except CellExecutionError as error:
        told = f"{error.ename}: {error.evalue}"
        raise InputError(f"A cell of '{path}' raised, so no page was written. {told}") from None
    except CellControlSignal as error:
        raise InputError(
            f"A cell of '{path}' did not end, so no page was written: {error}"
        ) from None
    return notebook


def _page(notebook: Any, name: str, code: bool) -> str:
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        extra_loaders=[DictLoader({"layerlens.html.j2": _PAGE})],
        template_file="layerlens.html.j2",
        exclude_input=not code,
    )
    notebook.metadata.pop("widgets", None)
    page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": name}})
    return str(page)
