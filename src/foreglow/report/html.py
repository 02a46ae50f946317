"""The report of a run: one self-contained HTML file, readable without a network.

It holds what the run directory says and nothing else: the summary, the skies pixel by pixel, the
paper's tables beside ours, every record, the figures, and how to make it again.
"""

import base64
import json
import re
import struct
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from foreglow.errors import RunError
from foreglow.files import write_text
from foreglow.report.dust.sections import dust_sections
from foreglow.report.page.page import asset, render, render_table
from foreglow.report.page.sky_section import script_policy, sky_section, viewer_style
from foreglow.report.page.skyview import load_view, saved_views
from foreglow.report.recognition.sections import recognition_sections

_EXPERIMENTS = {
    "demo": "Both jobs on the mock Galaxy: foreground models recognised, dust predicted",
    "farsian2020": "Foreground model recognition (Farsian, Krachmalnicoff & Baccigalupi 2020)",
    "survey": "Foreground models in public maps of the sky",
    "zhang2019": "Dust from the HI velocity cube (Zhang, Chiang, Sheehy, Slosar & Wang 2019)",
}
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
    body = render(
        "body",
        sky=sky_section(views),
        tables=recognition_sections(records) + dust_sections(records),
        figures=_figures(run_dir / "figures"),
        records=_records_table(records),
        n_records=len(records),
        command=_command(config),
        times=_times_table(metrics),
        config=config_text,
    )
    page = render(
        "page",
        title=f"foreglow: {experiment}",
        subtitle=_EXPERIMENTS.get(experiment, experiment),
        style=asset("style.css") + (viewer_style() if views else ""),
        policy=script_policy() if views else "",
        sky=metrics.get("sky"),
        scale=metrics.get("scale"),
        facts=_facts(metrics, config),
        contents=re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', body),
        body=body,
    )
    report = run_dir / "report.html"
    write_text(report, page)
    return report


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
    remedy = "Run the experiment again, or continue it with resume=True."
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


def _facts(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """What is known of the run, by name."""
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
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


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


def _records_table(records: Sequence[Mapping[str, Any]]) -> Markup:
    columns = list(dict.fromkeys(key for record in records for key in record))
    lines = [[_value(record.get(column)) for column in columns] for record in records]
    return render_table(columns, lines, row_headings=False)


def _value(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _figures(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Figures by the section that their captions name, in the order to show."""
    captions = _read_captions(folder / "captions.json")
    found = {path.stem: path for path in sorted(folder.glob("*.png"), key=_natural_order)}
    ordered = [name for name in captions if name in found]
    ordered += [name for name in found if name not in captions]
    with ThreadPoolExecutor() as pool:
        figures = pool.map(lambda name: _figure(found[name], captions.get(name, {})), ordered)
    sections: dict[str, list[dict[str, Any]]] = {}
    for name, figure in zip(ordered, figures, strict=True):
        title = str(captions.get(name, {}).get("section", ""))
        sections.setdefault(title, []).append(figure)
    return sections


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


def _figure(path: Path, caption: Mapping[str, Any]) -> dict[str, Any]:
    data = path.read_bytes()
    kind, shown = _compact(data)
    return {
        "name": path.stem,
        "title": str(caption.get("title") or path.stem.replace("_", " ")),
        "caption": str(caption.get("caption") or ""),
        "kind": kind,
        "base64": base64.b64encode(shown).decode("ascii"),
        "size": _image_size(data),
    }


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


def _image_size(png: bytes) -> tuple[int, int] | None:
    # a PNG begins with its signature and then the size; the page does not jump while it loads
    if len(png) < 24 or not png.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def _command(config: Mapping[str, Any]) -> str:
    command = _find(config, "command")
    return " ".join(map(str, command)) if isinstance(command, list) else str(command or "")


def _times_table(metrics: Mapping[str, Any]) -> Markup:
    timings = metrics.get("timings_s")
    found = timings if isinstance(timings, dict) else {}
    lines = [[str(name), _value(value)] for name, value in found.items()]
    return render_table(["Step", "Time [s]"], lines, row_headings=False)
