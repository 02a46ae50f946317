"""Sphinx configuration."""

import os
from importlib.metadata import version as version_of
from pathlib import Path

project = "foreglow"
author = "foreglow developers"
version = release = version_of("foreglow")
extensions = [
    "myst_nb", "sphinx.ext.apidoc", "sphinx.ext.autodoc", "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
]  # fmt: skip
# a page for every package, made when the documentation is built
apidoc_modules = [{"path": "../src/foreglow", "destination": "api"}]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"foreglow {version}"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# tutorials are run in a folder of their own, again only when their code changes
nb_execution_mode = "cache"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 900
nb_merge_streams = True

autodoc_typehints = "none"  # the docstrings say it, with shapes and units
autodoc_class_signature = "mixed"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# the tutorials of the real sky make small files of the products' forms with what tests share
os.environ["FOREGLOW_TESTS"] = str(Path(__file__).parents[1] / "tests")

# a type in a docstring may name what several classes have, like nside
suppress_warnings = ["ref.python"]


def escape_bars(*event):
    """In a docstring, the last part of an event, |b| is a modulus and not a substitution."""
    lines = event[-1]
    lines[:] = [line if ">>>" in line else line.replace("|", r"\|") for line in lines]


def setup(app):
    """Called by Sphinx."""
    # before napoleon, whose own fields may hold bars
    app.connect("autodoc-process-docstring", escape_bars, priority=400)
