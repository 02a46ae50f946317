import base64
import json
import re
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from foreglow.errors import RunError
from foreglow.report.html import write_report
from foreglow.report.page.skyview import Layer, LineSpectra, SkyView, save_view
from foreglow.report.recognition import figures

VOID = {"meta", "img", "br", "link", "input", "hr"}
RECORD = {
    "problem": "curvature",
    "network": "foreglow",
    "training": "noiseless",
    "noise": "none",
    "context": "pixel",
    "method": "network",
    "set": "test",
    "n_pixels": 3072,
    "accuracy": 0.985,
    "paper": 0.98,
}
METRICS = {
    "experiment": "farsian2020",
    "scale": "paper",
    "sky": "pysm:s1,d1,a2",
    "seed": 7,
    "records": [RECORD, {"problem": "curvature", "method": "chi2", "accuracy": 0.58}],
    "timings_s": {"train": 3700.0, "evaluate": 20.0},
}
CONFIG = """
device = "cuda"
git_revision = "abc1234"
command = "foreglow reproduce farsian2020 --out run"

[versions]
foreglow = "0.1.0"
healpy = "1.20.1"
"""


class Page(HTMLParser):
    """Parsed page; fails on a tag closed out of order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@cache
def drawn():
    """A figure as a run holds it."""
    with TemporaryDirectory() as folder:
        figure = figures.confusion([[3, 1], [1, 3]], ["a", "b"], "Test")
        return figures.save(figure, Path(folder), "figure")[0].read_bytes()


def write_run(folder, metrics=METRICS, config=CONFIG, names=(), captions=None):
    (folder / "metrics.json").write_text(json.dumps(metrics))
    if config is not None:
        (folder / "config.toml").write_text(config)
    for name in names:
        (folder / "figures").mkdir(exist_ok=True)
        (folder / "figures" / f"{name}.png").write_bytes(drawn())
    if captions is not None:
        (folder / "figures" / "captions.json").write_text(json.dumps(captions))
    return folder


def read_page(folder):
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_report_says_what_ran(tmp_path):
    page = read_page(write_run(tmp_path))
    for words in (
        "pysm:s1,d1,a2",
        "Seed 7",
        "Device cuda",
        "Time 1 h 2 min",
        "foreglow 0.1.0, healpy 1.20.1",
        "abc1234",
        "foreglow reproduce farsian2020 --out run",
        "98.5% ± 0.2 paper 98% (+0.5)",
        "All of metrics.json (2)",
    ):
        assert words in page.text
    assert "mock Galaxy" not in page.text
    assert "smaller than the paper's" not in page.text


def test_report_says_plainly_that_the_sky_is_a_mock_and_the_scale_small(tmp_path):
    page = read_page(write_run(tmp_path, METRICS | {"sky": "mock", "scale": "smoke"}))
    assert "mock Galaxy, a stand-in for real templates" in page.text
    assert "Scale “smoke” is smaller than the paper's" in page.text


CONTEXT = RECORD | {
    "training": "conditioned", "noise": "table1", "noise_scale": 1.0, "context": "spatial",
    "spatial": "unet", "layout": "halves", "accuracy": 0.876, "error": 0.01, "ece": 0.02,
    "class": None,
}  # fmt: skip
SEPARATION = {
    "problem": "curvature", "noise_scale": 1.0, "method": "separation", "nside": 16,
    "option": "true models", "region": "|b| > 20 deg", "realisations": 7, "rms": 0.02,
    "rms_sem": None, "bb": 1e-6, "bb_sem": None, "rms_over_truth": 1.0, "bb_over_truth": 1.0,
    "r_bias": 1e-3, "r_bias_sem": None, "r_error": 1e-3,
}  # fmt: skip


@pytest.mark.parametrize("with_context", [False, True])
@pytest.mark.parametrize("with_separation", [False, True])
def test_sections_for_what_was_run(tmp_path, with_context, with_separation):
    """Neighbours and component separation, each by itself or not at all."""
    more = [CONTEXT] * with_context + [SEPARATION] * with_separation
    page = read_page(write_run(tmp_path, METRICS | {"records": [*METRICS["records"], *more]}))
    titles = {attributes.get("id") for attributes in page.all("h2")}
    assert ("neighbours" in titles) == with_context
    assert ("separation" in titles) == with_separation
    assert "accuracy" in titles
    assert ("More than one pixel" in page.text) == with_context
    assert ("87.6% ± 1.0 calibration error 2.0%" in page.text) == with_context
    for words in (
        "mean and standard error over 7 skies",
        "at |b| > 20 deg",
        "from multipole 2 to 47",
    ):
        assert (words in page.text) == with_separation
    regions = {attributes["aria-label"] for attributes in page.all("div") if "role" in attributes}
    assert ("What recognition is for: component separation" in regions) == with_separation


def test_report_loads_nothing_from_outside(tmp_path):
    write_run(tmp_path, names=["fig4"])
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r"@import|url\(", text)
    page = Page(text)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert "prefers-color-scheme: dark" in text
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )


def test_figures_come_in_the_order_of_the_captions_then_of_their_names(tmp_path):
    captions = {
        "fig7": {"title": "Fig. 7", "caption": "Four models.", "section": "Maps"},
        "gone": {"title": "Not drawn"},
        "fig1": {"title": "Fig. 1", "section": "Sky"},
    }
    write_run(tmp_path, names=["fig10", "fig2", "fig1", "fig7"], captions=captions)
    page = read_page(tmp_path)
    assert [figure["id"] for figure in page.all("figure")] == [
        "figure-fig7",
        "figure-fig1",
        "figure-fig2",
        "figure-fig10",
    ]
    images = page.all("img")
    assert [image["alt"] for image in images] == ["Fig. 7. Four models.", "Fig. 1", "fig2", "fig10"]
    embedded = base64.b64decode(images[0]["src"].split(",")[1])
    assert embedded == (tmp_path / "figures" / "fig7.png").read_bytes()
    assert images[0]["width"] == "630"
    assert "Not drawn" not in page.text
    assert page.text.index("Maps Fig. 7") < page.text.index("Sky Fig. 1")


def test_everything_is_escaped(tmp_path):
    evil = '<script>alert("&")</script>'
    captions = {"fig": {"title": evil, "caption": evil, "section": evil}}
    record = RECORD | {"problem": evil, "network": evil, evil: evil}
    context = CONTEXT | {"problem": evil, "layout": evil, "spatial": evil}
    separation = SEPARATION | {"problem": evil, "option": evil, "region": evil}
    metrics = {
        "experiment": evil, "scale": evil, "sky": evil, "seed": evil,
        "records": [record, context, separation], "timings_s": {evil: 1.0},
    }  # fmt: skip
    config = f"device = '{evil}'\ncommand = '{evil}'\n[versions]\nx = '{evil}'\n"
    page = read_page(write_run(tmp_path, metrics, config, ["fig"], captions))
    assert page.all("script") == []
    assert page.text.count(evil) > 22


@pytest.mark.parametrize(
    "end", ["</title>", "</h1>", '">', "'>", "</style>", "-->", "]]>", "</script>", "{{ 7 * 7 }}"]
)
def test_no_title_breaks_out(tmp_path, end):
    """Whatever an element or an attribute ends with; the script of the sky stays the only one."""
    evil = f"{end}<script>alert(1)</script><b onclick='alert(1)' x=\"{end}"
    layers = (Layer(evil, evil, evil, np.arange(12.0), "linear"),)
    spectra = LineSpectra(np.arange(2.0), np.ones((2, 12)))
    save_view(SkyView("1", evil, evil, layers, spectra), tmp_path / "maps")
    metrics = METRICS | {"experiment": evil, "records": [RECORD | {"problem": evil}]}
    captions = {"fig": {"title": evil, "section": evil}}
    page = read_page(write_run(tmp_path, metrics, names=["fig"], captions=captions))
    kinds = [script.get("type") for script in page.all("script")]
    assert kinds == ["application/json", "application/json", None]
    assert page.all("b") == []
    assert page.text.count(evil) > 6
    assert page.all("img")[0]["alt"] == evil
    assert page.all("option") == [{"value": "0"}]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'class="sky-data">(.*?)</script>', text)
    assert json.loads(data)["title"] == evil


def test_headings_go_down_one_level_at_a_time(tmp_path):
    page = read_page(write_run(tmp_path, names=["fig1"], captions={"fig1": {"section": "Sky"}}))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_report_of_an_empty_run(tmp_path):
    page = read_page(write_run(tmp_path, {}, config=None))
    assert page.all("h2") == []


def test_report_is_replaced_as_a_whole(tmp_path):
    write_run(tmp_path)
    first = write_report(tmp_path)
    write_run(tmp_path, METRICS | {"seed": 8})
    assert write_report(tmp_path) == first == tmp_path / "report.html"
    assert "Seed 8" in Page(first.read_text(encoding="utf-8")).text
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.toml",
        "metrics.json",
        "report.html",
    ]


def test_not_a_run_directory(tmp_path):
    with pytest.raises(
        RunError, match=r"Expected a run directory with metrics.json, got .*resume=True"
    ):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"records": [', r"Expected JSON in .*metrics.json, got: .*resume=True"),
        ("[]", r"Expected a JSON object in .*metrics.json, got a list\..*resume=True"),
        ('{"records": [1]}', r"Expected 'records' in .*to be a list of objects\..*resume=True"),
    ],
)
def test_damaged_metrics(tmp_path, text, message):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(RunError, match=message):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_damaged_companions(tmp_path):
    write_run(tmp_path, config="device = ")
    with pytest.raises(RunError, match=r"Expected TOML in .*config.toml, got: "):
        write_report(tmp_path)
    write_run(tmp_path, names=["fig1"], captions={"fig1": "a caption"})
    with pytest.raises(RunError, match=r"Expected an object for each figure in .*captions.json"):
        write_report(tmp_path)
    (tmp_path / "metrics.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunError, match=r"Expected .*metrics.json to be readable text"):
        write_report(tmp_path)
