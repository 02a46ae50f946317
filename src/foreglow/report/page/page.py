"""The pieces of a report: templates filled in, tables, and the files that lie beside them.

A template escapes whatever is put into it, but for HTML that another one has made.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_HERE = "foreglow.report.page"
_TEMPLATES = Environment(
    loader=PackageLoader(_HERE),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}


class Cell(NamedTuple):
    """A number in a table, its error beside it and a remark below, as text."""

    value: str
    error: str = ""
    below: str = ""

    def __str__(self) -> str:
        """The same for a terminal."""
        return "\n".join(filter(None, (f"{self.value} {self.error}".strip(), self.below)))


def render(template: str, **fields: Any) -> Markup:
    """Fill in ``templates/<template>.html.j2``."""
    return Markup(_TEMPLATES.get_template(f"{template}.html.j2").render(fields))


def render_table(
    head: Sequence[str], body: Iterable[Sequence[str | Cell]], row_headings: bool = True
) -> Markup:
    """An HTML ``<table>``, empty without rows.

    Parameters
    ----------
    head : sequence of str
    body : iterable of rows
    row_headings : bool
        Whether rows begin with a heading.
    """
    lines = list(body)
    fields = {"head": head, "body": lines, "row_headings": row_headings}
    return render("table", **fields) if lines else Markup()


@cache
def asset(name: str) -> str:
    """Text of a style sheet, script or licence beside this module."""
    return (resources.files(_HERE) / name).read_text(encoding="utf-8")
