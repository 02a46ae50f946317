"""The report of a run: one self-contained HTML file, readable without a network.

It holds what the run directory says and nothing else: the summary, the skies pixel by pixel, the
paper's tables beside ours, every record, the figures, and how to make it again.
"""

import base64
import html
import json
import re
import struct
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from foreglow.errors import RunError
from foreglow.files import write_text
from foreglow.report.dust.sections import dust_sections
from foreglow.report.page.page import PAGE, STYLE, plain_table, scrolling, section
from foreglow.report.page.sky_section import script_policy, sky_section, viewer_style
from foreglow.report.page.skyview import load_view, saved_views
from foreglow.report.recognition.sections import recognition_sections

_EXPERIMENTS = {
    "demo": "Both jobs on the mock Galaxy: foreground models recognised, dust predicted",
    "farsian2020": "Foreground model recognition (Farsian, Krachmalnicoff & Baccigalupi 2020)",
    "zhang2019": "Dust from the HI velocity cube (Zhang, Chiang, Sheehy, Slosar & Wang 2019)",
}
_MOCK_NOTE = (
    "The sky of this run is foreglow's mock Galaxy, a stand-in for real templates: "
    "these numbers show the method at work, not the real sky."
)
_SMALL_NOTE = (
    "Scale “{scale}” is smaller than the paper's; compare its numbers with the paper's accordingly."
)

_LARGE = 100_000  # bytes of a figure: larger ones are maps, a third of their size as WebP


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` from what a run directory holds.

    Parameters
    ----------
    run_dir : Path
        With ``metrics.json``; ``config.toml``, ``figures/*.png``, ``figures/captions.json``
        (``{name: {"title", "caption", "section"}}``, in the order to show) and
        ``maps/view_*.npz`` (see `foreglow.report.page.skyview`) are used if present.

    Returns
    -------
    Path
        The report, replaced as a whole: a reader never sees half of one.

    Raises
    ------
    RunError
        If ``metrics.json`` is missing, or a file cannot be read as what it should be.
    """
    run_dir = Path(run_dir)
    metrics = _read_metrics(run_dir)
    config_text = _read_text(run_dir / "config.toml")
    config = _read_config(run_dir / "config.toml", config_text)
    records = metrics["records"]
    experiment = str(metrics.get("experiment") or "run")
    views = [load_view(path) for path in saved_views(run_dir / "maps")]
    parts = {
        "sky": sky_section(views),
        "tables": recognition_sections(records) + dust_sections(records),
        "figures": _figures_section(run_dir / "figures"),
        "records": _records_section(records),
        "making": _making_section(metrics, config, config_text),
    }
    page = PAGE.substitute(
        title=html.escape(f"foreglow: {experiment}"),
        style=STYLE + (viewer_style() if views else ""),
        policy=script_policy() if views else "",
        subtitle=html.escape(_EXPERIMENTS.get(experiment, experiment)),
        notes=_notes(metrics),
        summary=_summary(metrics, config),
        contents=_contents("".join(parts.values())),
        **parts,
    )
    report = run_dir / "report.html"
    write_text(report, page)
    return report


def _contents(body: str) -> str:
    """Links to the sections of the page, where there are several."""
    found = re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', body)
    if len(found) < 3:
        return ""
    links = "".join(f'<li><a href="#{name}">{title}</a></li>\n' for name, title in found)
    return f'<nav aria-label="Contents">\n<ul>\n{links}</ul>\n</nav>\n'


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"Expected {path} to be readable text: {error}. Run again.") from error


def _read_json(path: Path, remedy: str) -> dict[str, Any]:
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise RunError(f"Expected JSON in {path}, got: {error}. {remedy}") from error
    if not isinstance(content, dict):
        got = type(content).__name__
        raise RunError(f"Expected a JSON object in {path}, got a {got}. {remedy}")
    return content


def _read_metrics(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "metrics.json"
    remedy = "Run the experiment again, or continue it with --resume."
    if not path.is_file():
        raise RunError(f"Expected a run directory with metrics.json, got {run_dir}. {remedy}")
    metrics = _read_json(path, remedy)
    records = metrics.setdefault("records", [])
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise RunError(f"Expected 'records' in {path} to be a list of objects. {remedy}")
    return metrics


def _read_config(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RunError(
            f"Expected TOML in {path}, got: {error}. Mend the file, or run the experiment again."
        ) from error


def _notes(metrics: Mapping[str, Any]) -> str:
    notes = []
    if metrics.get("sky") == "mock":
        notes.append(_MOCK_NOTE)
    scale = metrics.get("scale")
    if scale is not None and scale != "paper":
        notes.append(_SMALL_NOTE.format(scale=scale))
    return "".join(f'<p class="note">{html.escape(note)}</p>\n' for note in notes)


def _summary(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    facts = {
        "Experiment": metrics.get("experiment"),
        "Scale": metrics.get("scale"),
        "Sky": metrics.get("sky"),
        "Seed": metrics.get("seed"),
        "Device": _find(config, "device"),
        "Time": _duration(_total_seconds(metrics)),
        "Revision": _find(config, "git_revision"),
        "Versions": _versions(config),
    }
    return _definition_list(facts)


def _find(config: Mapping[str, Any], key: str) -> Any:
    """Value of a key at the top of the configuration or in one of its sections."""
    places = [config, *(value for value in config.values() if isinstance(value, dict))]
    return next((place[key] for place in places if key in place), None)


def _versions(config: Mapping[str, Any]) -> str | None:
    versions = config.get("versions")
    if not isinstance(versions, dict):
        return None
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _total_seconds(metrics: Mapping[str, Any]) -> float | None:
    timings = metrics.get("timings_s")
    if not isinstance(timings, dict) or not timings:
        return None
    if isinstance(timings.get("total"), int | float):
        return float(timings["total"])
    return float(sum(value for value in timings.values() if isinstance(value, int | float)))


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _definition_list(facts: Mapping[str, Any]) -> str:
    items = "".join(
        f"<div><dt>{html.escape(name)}</dt>{_description(str(value))}</div>\n"
        for name, value in facts.items()
        if value not in (None, "")
    )
    return f"<dl>\n{items}</dl>\n"


def _description(text: str) -> str:
    wide = ' class="long"' if len(text) > 30 else ""
    return f"<dd{wide}>{html.escape(text)}</dd>"


def _records_section(records: Sequence[Mapping[str, Any]]) -> str:
    if not records:
        return ""
    columns = list(dict.fromkeys(key for record in records for key in record))
    lines = [[_value(record.get(column)) for column in columns] for record in records]
    table = scrolling(plain_table(columns, lines), "All records")
    body = f"<details><summary>All of metrics.json ({len(records)})</summary>\n{table}</details>\n"
    return section("records", "All records", body)


def _value(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _figures_section(folder: Path) -> str:
    captions = _read_captions(folder / "captions.json")
    found = {path.stem: path for path in sorted(folder.glob("*.png"), key=_natural_order)}
    ordered = [name for name in captions if name in found]
    ordered += [name for name in found if name not in captions]
    with ThreadPoolExecutor() as pool:
        figures = pool.map(lambda name: _figure(found[name], captions.get(name, {})), ordered)
    sections: dict[str, list[str]] = {}
    for name, figure in zip(ordered, figures, strict=True):
        title = str(captions.get(name, {}).get("section", ""))
        sections.setdefault(title, []).append(figure)
    body = "".join(
        (f"<h3>{html.escape(name)}</h3>\n" if name else "") + "".join(figures)
        for name, figures in sections.items()
    )
    return section("figures", "Figures", body) if body else ""


def _read_captions(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    remedy = "Run the experiment again, or remove the file to go without captions."
    captions = _read_json(path, remedy)
    if not all(isinstance(caption, dict) for caption in captions.values()):
        raise RunError(f"Expected an object for each figure in {path}. {remedy}")
    return captions


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts fig2 before fig10."""
    parts = re.split(r"(\d+)", path.stem)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _figure(path: Path, caption: Mapping[str, Any]) -> str:
    title = str(caption.get("title") or path.stem.replace("_", " "))
    text = str(caption.get("caption") or "")
    data = path.read_bytes()
    kind, shown = _compact(data)
    image = base64.b64encode(shown).decode("ascii")
    alt = html.escape(f"{title}. {text}" if text else title)
    words = f"<strong>{html.escape(title)}.</strong> {html.escape(text)}".strip()
    return (
        f'<figure id="figure-{html.escape(path.stem)}">\n'
        f'<img src="data:image/{kind};base64,{image}" alt="{alt}"{_image_size(data)}>\n'
        f"<figcaption>{words}</figcaption>\n</figure>\n"
    )


def _compact(png: bytes) -> tuple[str, bytes]:
    """What the page shows of a PNG: lines as they are, maps of many colours as WebP."""
    if len(png) < _LARGE:
        return "png", png
    try:
        image = Image.open(BytesIO(png)).convert("RGB")
    except OSError:
        return "png", png
    webp = BytesIO()
    image.save(webp, "WEBP", quality=90, method=0)
    smaller = webp.getbuffer().nbytes < len(png)
    return ("webp", webp.getvalue()) if smaller else ("png", png)


def _image_size(png: bytes) -> str:
    # a PNG begins with its signature and then the size; the page does not jump while it loads
    if len(png) < 24 or not png.startswith(b"\x89PNG\r\n\x1a\n"):
        return ""
    width, height = struct.unpack(">II", png[16:24])
    return f' width="{width}" height="{height}"'


def _making_section(metrics: Mapping[str, Any], config: Mapping[str, Any], text: str) -> str:
    parts = []
    command = _find(config, "command")
    if isinstance(command, list):
        command = " ".join(map(str, command))
    if command:
        parts.append(f"<pre><code>{html.escape(str(command))}</code></pre>\n")
    timings = metrics.get("timings_s")
    if isinstance(timings, dict) and timings:
        lines = [[str(name), _value(value)] for name, value in timings.items()]
        table = scrolling(plain_table(["Step", "Time [s]"], lines), "Times")
        parts.append(f"<h3>Times</h3>\n{table}")
    if text:
        parts.append(
            "<h3>Configuration</h3>\n<details><summary>config.toml</summary>\n"
            f"<pre><code>{html.escape(text)}</code></pre></details>\n"
        )
    return section("making", "How this was made", "".join(parts)) if parts else ""
