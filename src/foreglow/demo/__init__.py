"""Both jobs on the mock Galaxy, in some minutes: models recognised, dust predicted, a report."""

import json
from pathlib import Path

from rich.table import Table

from foreglow.compute.device import pick_device
from foreglow.demo.dust import predict_dust, printed_table
from foreglow.demo.dust import settings as dust_settings
from foreglow.demo.recognise import recognise_models
from foreglow.demo.recognise import settings as recognition_settings
from foreglow.errors import RunError
from foreglow.files import remove_directory, write_text
from foreglow.report.html import write_report
from foreglow.report.page.tables import accuracy_rows, rich_table
from foreglow.runs import open_run


def run_demo(out: Path, seed: int, device: str, overwrite: bool) -> Path:
    """Train small networks for both jobs, use them on skies they have not seen, and report.

    Parameters
    ----------
    out : Path
        Run directory; all maps, simulated and found, are kept in it.
    seed : int
    device : str
    overwrite : bool
        Replace an earlier demo in `out`.

    Returns
    -------
    Path
        The report.
    """
    if overwrite:
        _remove_earlier(out)
    elif out.is_dir() and any(out.iterdir()):
        raise RunError(
            f"{out} is not empty; give another out=, or overwrite=True to replace an earlier demo."
        )
    chosen = pick_device(device)
    config = {
        "experiment": "demo", "scale": "demo", "sky": "mock", "seed": seed, "device": str(chosen),
        "settings": {"recognition": recognition_settings(), "dust": dust_settings()},
    }  # fmt: skip
    with open_run(out, config, resume=False) as run:
        captions = recognise_models(run, seed, chosen)
        captions |= predict_dust(run, seed, chosen)
        write_text(run.figures / "captions.json", json.dumps(captions, indent=1))
        run.save_metrics()
        return write_report(run.folder)


def printed(out: Path) -> list[Table | str]:
    """What the terminal is to show of a demo: tables, and what to know of them."""
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    records = metrics["records"]
    return [
        *(rich_table(accuracy_rows(records, table)) for table in (2, 3)),
        "With the noise of Table 1, a pixel alone does not hold what the paper claims: "
        "`foreglow reproduce farsian2020` shows accuracy against noise.",
        printed_table(records),
        f"The predicted dust with its error: {out / 'maps' / 'dust.fits'}. "
        "`foreglow reproduce zhang2019` has the paper's figures, ablations and template cleaning.",
        f"{sum(metrics['timings_s'].values()):.0f} s; open {out / 'report.html'}",
    ]


def _remove_earlier(out: Path) -> None:
    config = out / "config.toml"
    if not out.exists():
        return
    if not config.is_file() or 'experiment = "demo"' not in config.read_text(encoding="utf-8"):
        raise RunError(f"{out} does not hold a demo, so it is not replaced; give another out=.")
    remove_directory(out)
