"""The bare page of a report, its style sheet, and the pieces that it is made of."""

import html
from collections.abc import Iterable, Sequence
from string import Template

STYLE = """
:root { color-scheme: light dark;
  --ground: #fbfbfa; --sheet: #ffffff; --ink: #1d2226; --soft: #5a636b; --line: #dde1e4;
  --accent: #0b62a4; --shade: #00000026; --note: #fdf3df; --note-ink: #5c4305; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #14171a; --sheet: #1c2024; --ink: #e6e9eb; --soft: #9ba5ad; --line: #343b41;
  --accent: #78b6ea; --shade: #00000099; --note: #35290f; --note-ink: #f1dcae; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 1.3rem; margin: 3rem 0 0.75rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.75rem 0 0.6rem; }
p { max-width: 46rem; }
.subtitle { color: var(--soft); margin: 0.35rem 0 1.5rem; }
.note { background: var(--note); color: var(--note-ink); border-radius: 6px;
  padding: 0.65rem 0.9rem; margin: 0.6rem 0; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr));
  gap: 0.9rem 1.5rem; margin: 1.5rem 0 0; }
dl div { min-width: 0; }
dl div:has(dd.long) { grid-column: 1 / -1; }
dt { color: var(--soft); font-size: 0.8rem; }
dd { margin: 0; overflow-wrap: anywhere; font-weight: 600; }
dd.long { font-weight: 400; }
nav ul { display: flex; flex-wrap: wrap; gap: 0.3rem 1.1rem; list-style: none; padding: 0;
  margin: 1.5rem 0 0; font-size: 0.92rem; }
a { color: var(--accent); }
/* a shade at the side where a table goes on */
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px;
  background: linear-gradient(to right, var(--sheet) 40%, transparent) 0 0 / 2.5rem 100% local,
    linear-gradient(to left, var(--sheet) 40%, transparent) 100% 0 / 2.5rem 100% local,
    linear-gradient(to right, var(--shade), transparent) 0 0 / 0.9rem 100% scroll,
    linear-gradient(to left, var(--shade), transparent) 100% 0 / 0.9rem 100% scroll,
    var(--sheet); background-repeat: no-repeat; }
.scroll + .scroll { margin-top: 1rem; }
.scroll tbody th { position: sticky; left: 0; background: var(--sheet); }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--accent);
  outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
  font-size: 0.92rem; }
th, td { text-align: left; vertical-align: top; padding: 0.5rem 0.8rem;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; font-size: 0.82rem; white-space: normal;
  vertical-align: bottom; min-width: 5.5rem; }
tbody tr:last-child > * { border-bottom: 0; }
tbody th { font-weight: 600; }
td.words { white-space: normal; min-width: 14rem; }
td small { color: var(--soft); }
figure { margin: 1.25rem 0 2rem; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; background: #ffffff;
  padding: 0.75rem; border: 1px solid var(--line); border-radius: 6px; }
figcaption { color: var(--soft); font-size: 0.9rem; margin-top: 0.6rem; max-width: 46rem; }
figcaption strong { color: var(--ink); }
summary { cursor: pointer; color: var(--accent); padding: 0.35rem 0; }
pre { overflow-x: auto; background: var(--sheet); border: 1px solid var(--line);
  border-radius: 6px; padding: 0.8rem 1rem; font-size: 0.85rem; line-height: 1.45; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
@media (max-width: 36rem) {
  main { padding: 1.25rem 0.9rem 3rem; } h1 { font-size: 1.5rem; }
  th, td { padding: 0.45rem 0.6rem; } tbody th { white-space: normal; }
  figure img { padding: 0.25rem; } }
@media print { .scroll { overflow: visible; } th, td { white-space: normal; } }
"""
"""Style sheet of the report; light or dark as the reader's system is."""

# the policy lets the page load nothing but what it carries
PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'$policy">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<header>
<h1>$title</h1>
<p class="subtitle">$subtitle</p>
</header>
$notes$summary$contents$sky$tables$figures$records$making</main>
</body>
</html>
""")
"""Page of the report; every field is HTML already escaped."""


def section(name: str, title: str, body: str) -> str:
    """A section with its heading; `body` is HTML."""
    return (
        f'<section aria-labelledby="{name}">\n<h2 id="{name}">{html.escape(title)}</h2>\n'
        f"{body}</section>\n"
    )


def scrolling(table: str, label: str) -> str:
    """A wide table scrolls by itself, by touch and by keyboard, instead of widening the page."""
    label = html.escape(label)
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">\n{table}</div>\n'


def html_rows(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table whose rows begin with a heading; the cells of `body` are HTML already."""
    titles = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    lines = "".join(
        f'<tr><th scope="row">{line[0]}</th>'
        + "".join(f"<td>{cell}</td>" for cell in line[1:])
        + "</tr>\n"
        for line in body
    )
    return f"<table>\n<thead><tr>{titles}</tr></thead>\n<tbody>\n{lines}</tbody>\n</table>\n"


def plain_table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table of text, escaped here."""
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>\n"
        for line in lines
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n"
