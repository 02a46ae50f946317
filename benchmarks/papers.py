"""The README's tables of both papers, from recorded runs of `foreglow reproduce`.

`python benchmarks/papers.py RUN` keeps what a run found as benchmarks/papers/PAPER-SCALE.json (with
its command, versions, seed and machine) and writes the tables; without RUN it writes them from what
is kept; `--check` says whether the README is that of the records.
"""

import json
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from foreglow.compute.cpu import available_cores
from foreglow.recognition.models import PROBLEMS
from foreglow.reproduce.farsian2020 import NETWORKS, PAPER_NOISY
from foreglow.reproduce.farsian2020.worker import REGIONS
from foreglow.reproduce.settings import SCALES
from foreglow.reproduce.zhang2019 import WINS
from measure import processor

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "benchmarks" / "papers"
README = ROOT / "README.md"

Record = Mapping[str, Any]

_LATER = ("`one_noise`", "`many_noise`")
REGIMES = ("noiseless", "one_noise", "many_noise")
METHODS = {
    "smallest reduced chi-square (the paper: 73 for curvature)": {"method": "chi2"},
    "BIC": {"method": "bic"},
    "evidence of the fits": {"method": "evidence"},
    "network `foreglow`, one pixel": {"network": "foreglow", "training": "many_noise"},
    "**ceiling of any method that looks at one pixel**": {"method": "ceiling"},
    "with neighbours, Potts field, laptop": {"spatial": "potts"},
    "**with neighbours, U-Net, laptop**": {"spatial": "unet"},
}
DUST = (
    "integrated", "linear", "linear_scale_dependent", "unet_zhang2019", "unet_zhang2019_annealed",
    "unet", "zhang2019-dust", "mock-dust", "perfect_gas",
)  # fmt: skip


def keep(run: Path) -> Path:
    """What a run found over all classes, and how; returns the file."""
    config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    about = {
        "command": f"foreglow reproduce {config['experiment']} --scale {config['scale']} "
        f"--sky {sky_of(config['sky'])} --seed {config['seed']}",
        "machine": {"processor": processor(), "cores": available_cores()},
        "device": config["device"],
        "versions": config["versions"],
        "git_revision": config.get("git_revision"),
        # of a run that was resumed, those of its last part
        "timings_s": {name: round(seconds, 1) for name, seconds in found["timings_s"].items()},
    }
    records = [r for r in found["records"] if r.get("class") is None]
    KEPT.mkdir(exist_ok=True)
    path = KEPT / f"{config['experiment']}-{config['scale']}.json"
    lines = ",\n".join(json.dumps(record) for record in records)
    head = json.dumps(about, indent=1)[:-2]
    path.write_text(f'{head},\n "records": [\n{lines}\n]}}\n', encoding="utf-8")
    return path


def sky_of(sky: str) -> str:
    """The sky of a command; of a directory its name alone."""
    return Path(sky).name if Path(sky).is_dir() else sky


def kept(paper: str) -> dict[str, list[Record]]:
    """Records by scale, of those that are kept."""
    files = {scale: KEPT / f"{paper}-{scale}.json" for scale in SCALES}
    return {
        scale: json.loads(path.read_text(encoding="utf-8"))["records"]
        for scale, path in files.items()
        if path.exists()
    }


def only(records: list[Record], **fields: Any) -> Record | None:
    """The record that has these fields, of several the last; none where it was not run.

    Skies outside the training law, and other layouts than the paper's, are meant if asked for.
    """
    found = [
        r
        for r in records
        if fields.items() <= r.items() and not (r.keys() - fields.keys()) & {"law", "layout"}
    ]
    return found[-1] if found else None


def recognition_networks() -> Iterator[str]:
    """Accuracy of the networks on the paper's skies, by scale."""
    scales = kept("farsian2020")
    yield _row("problem", "network, scale", "no noise", "noisy, trained `noiseless`", *_LATER)
    yield "|---|---|---|---|---|---|"
    for problem in PROBLEMS:
        paper = [
            _accuracy(records, problem, "foreglow", *case, key="paper")
            for records in list(scales.values())[:1]
            for case in _cases()
        ]
        yield _row(problem, "*the paper*", *(f"*{value}*" for value in paper))
        for network in NETWORKS:
            for scale, records in scales.items():
                values = [_accuracy(records, problem, network, *case) for case in _cases()]
                yield _row(problem, f"`{network}`, {scale}", *values)


def _cases() -> Iterator[tuple[str, float]]:
    """Training and noise of the columns."""
    yield "noiseless", 0.0
    yield from ((regime, 1.0) for regime in REGIMES)


def _accuracy(
    records: list[Record], problem: str, network: str, training: str, noise: float,
    key: str = "accuracy",
) -> str:  # fmt: skip
    fields = {"problem": problem, "network": network, "training": training, "noise_scale": noise}
    found = only(records, set="test", method="network", context="pixel", **fields)
    if found is None:
        return "–"
    return f"{100 * found[key]:.0f}" if key == "paper" else f"{100 * found[key]:.1f}"


def recognition_methods() -> Iterator[str]:
    """Every method at Table 1 noise, at the largest scale that is kept; neighbours at `laptop`."""
    scales = kept("farsian2020")
    largest, laptop = list(scales.values())[-1], scales.get("laptop", ())
    yield "| at Table 1 noise | curvature | ame | four |"
    yield "|---|---|---|---|"
    for name, fields in METHODS.items():
        cells = []
        for problem in PROBLEMS:
            where = {"layout": REGIONS[problem]} if "spatial" in fields else {}
            records = laptop if "spatial" in fields else largest
            found = only(records, problem=problem, noise_scale=1.0, set="test", **fields, **where)
            cells.append("–" if found is None else f"{100 * found['accuracy']:.1f}")
        yield _row(name, *cells)
    paper = (PAPER_NOISY[problem]["many_noise"] for problem in PROBLEMS)
    yield _row("*the paper, one pixel*", *(f"*{100 * accuracy:.0f}*" for accuracy in paper))


def dust_models() -> Iterator[str]:
    """Correlations of the dust models on the cutouts of the other hemisphere, by scale."""
    yield "| model, scale | r50 | r150 | above integrated, r50 | above integrated, r150 |"
    yield "|---|---|---|---|---|"
    yield _row(
        "*the paper's U-Net, real sky*", "", "", *(f"*{_percent(w)}*" for w in WINS.values())
    )
    for model in DUST:
        for scale, records in kept("zhang2019").items():
            of_intensity = [r for r in records if "r50" in r]
            found = only(of_intensity, model=model, split="north_south", set="test")
            if found is None:
                continue
            r50, r150 = (f"{found[k]:.3f} ± {found[k + '_sem']:.3f}" for k in ("r50", "r150"))
            wins = [found.get(k) for k in ("wins50", "wins150")]
            yield _row(f"`{model}`, {scale}", r50, r150, *(_percent(w) for w in wins))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}%"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


TABLES = {
    "farsian2020: networks": recognition_networks,
    "farsian2020: methods": recognition_methods,
    "zhang2019: models": dust_models,
}


def filled(text: str) -> str:
    """A page with every table between its marks made anew, if there are records of its paper."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name} -->", "<!-- end -->"
        before, found, rest = text.partition(begin)
        if not found:
            raise SystemExit(f"expected the mark {begin!r} in {README}, got none.")
        if not kept(name.partition(":")[0]):  # what stands there is older than the records
            continue
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{chr(10).join(table())}\n{end}{after}"
    return text


def main(arguments: list[str]) -> int:
    """Keep a run, write the tables, or check them."""
    text = README.read_text(encoding="utf-8")
    if arguments == ["--check"]:
        if filled(text) != text:
            print("README.md is not that of the records; run: python benchmarks/papers.py")
            return 1
        return 0
    for run in arguments:
        print(keep(Path(run)))
    README.write_text(filled(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
