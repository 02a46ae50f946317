"""Sphinx configuration."""

project = "foreglow"
author = "foreglow developers"
extensions = ["myst_parser"]
html_theme = "alabaster"
exclude_patterns = ["_build"]
