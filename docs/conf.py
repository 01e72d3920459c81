"""The documentation: Sphinx reads this. `make docs` builds it, without a network.

Every page that has cells is run while it is built (`LAYERLENS_EMBED` makes its views frozen ones,
which move without a kernel), and what a cell gave is kept in ``build/docs-cells`` until its code
changes. ``DOCS_RUN=0`` leaves cells as they are, for those who only want to see the text.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import made

import layerlens

made.write(HERE)

project = "layerlens"
author = "the layerlens developers"
copyright = f"%Y, {author}"
version = release = layerlens.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["**.ipynb_checkpoints"]
html_theme = "furo"
html_title = "layerlens"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False

myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type", "myst-nb.lexer", "ref.python"]
nb_execution_mode = "off" if os.environ.get("DOCS_RUN") == "0" else "cache"
nb_execution_cache_path = str(HERE.parent / "build" / "docs-cells")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_ipywidgets_js = {}  # views are frozen here, and a page asks no other host for anything
os.environ["LAYERLENS_EMBED"] = "1"

autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
