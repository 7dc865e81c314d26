"""Configuration of the documentation: `sphinx-build -W docs docs/_build`."""

from __future__ import annotations

from typing import Any

import es_rl

project = "es_rl"
author = "the es_rl authors"
copyright = "2026, the es_rl authors"
release = version = es_rl.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
python_use_unqualified_type_names = True
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_use_ivar = True
# numba's and gymnasium's types appear in signatures, without their documentation being linked
nitpicky = False

html_theme = "furo"
html_title = f"es_rl {release}"


def _skip(app: Any, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples, which their class's docstring describes."""
    return True if str(getattr(member, "__doc__", "")).startswith("Alias for field") else None


def setup(app: Any) -> None:
    """Register what this configuration adds to Sphinx."""
    app.connect("autodoc-skip-member", _skip)
