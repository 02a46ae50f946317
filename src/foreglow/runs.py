"""Run directories: configuration, metrics, log; every file appears whole or not at all."""

import contextlib
import json
import logging
import platform
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tomli_w

from foreglow.errors import RunError
from foreglow.files import write_text

log = logging.getLogger("foreglow")

_PACKAGES = (
    "foreglow",
    "torch",
    "lightning",
    "numpy",
    "scipy",
    "healpy",
    "ducc0",
    "astropy",
    "reproject",
    "pysm3",
    "camb",
    "xarray",
    "zarr",
)
_MUST_AGREE = ("experiment", "scale", "sky", "seed", "settings")


@dataclass
class Run:
    """An open run directory.

    Parameters
    ----------
    folder : Path
    config : dict
        All that was resolved: experiment, scale, sky, seed, device, settings, versions.
    records : list of dict
        Records of metrics.json.
    timings_s : dict
        Seconds by stage.
    """

    folder: Path
    config: dict[str, Any]
    records: list[dict[str, Any]] = field(default_factory=list)
    timings_s: dict[str, float] = field(default_factory=dict)

    @property
    def figures(self) -> Path:
        """Where figures go."""
        return self.folder / "figures"

    @property
    def models(self) -> Path:
        """Where trained models go."""
        return self.folder / "model"

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a part of the work, and say that it begins."""
        log.info("%s", name)
        start = time.perf_counter()
        yield
        self.timings_s[name] = round(time.perf_counter() - start, 3)

    def save_metrics(self) -> None:
        """Write metrics.json."""
        table = {key: self.config[key] for key in ("experiment", "scale", "sky", "seed")}
        table |= {"records": self.records, "timings_s": self.timings_s}
        write_text(self.folder / "metrics.json", json.dumps(table, indent=1) + "\n")


@contextlib.contextmanager
def open_run(folder: Path, config: Mapping[str, Any], resume: bool) -> Iterator[Run]:
    """Make a run directory, or go on in the one that an interrupted run left.

    Parameters
    ----------
    folder : Path
    config : mapping
        With experiment, scale, sky, seed, device, settings; versions are added.
    resume : bool

    Raises
    ------
    RunError
        If the folder holds something already and `resume` is not set, or what it holds was made
        with another configuration; or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; give another out=.")
    resolved = {
        **config,
        "command": " ".join(["foreglow", *sys.argv[1:]]),
        "git_revision": _git_revision(),
        "versions": {"python": platform.python_version(), **package_versions()},
    }
    if resume and (folder / "config.toml").is_file():
        _check_same(folder, resolved)
    elif folder.exists() and any(folder.iterdir()):
        raise RunError(
            f"{folder} is not empty; give another out=, or resume=True to go on with an "
            "interrupted run."
        )
    write_text(folder / "config.toml", tomli_w.dumps(resolved))
    handler = _LogFile(folder / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    level = log.level
    if not log.isEnabledFor(logging.INFO):  # called from Python: log.txt is written all the same
        log.setLevel(logging.INFO)
    try:
        yield Run(folder.absolute(), resolved)  # workers may be elsewhere
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
        handler.close()


class _LogFile(logging.FileHandler):
    """A log that ends the run where it cannot be written; logging's own prints tracebacks."""

    def handleError(self, record: logging.LogRecord) -> None:
        raise


def _check_same(folder: Path, resolved: Mapping[str, Any]) -> None:
    try:
        before = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunError(
            f"{folder / 'config.toml'} is damaged ({error}); give another out=."
        ) from error
    now = tomllib.loads(tomli_w.dumps(dict(resolved)))
    differ = [key for key in _MUST_AGREE if before.get(key) != now.get(key)]
    if differ:
        raise RunError(
            f"{folder} was begun with another {', '.join(differ)} "
            f"({'; '.join(f'{k}: {before.get(k)!r} then, {now.get(k)!r} now' for k in differ)}); "
            "resume with the same, or give another out=."
        )


def package_versions() -> dict[str, str]:
    """Versions of the packages that shape a result, of those installed."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _git_revision() -> str:
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip()
