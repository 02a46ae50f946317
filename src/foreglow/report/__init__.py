"""Figures, tables and the HTML report of a run."""

from foreglow.extras import require

require("report")
