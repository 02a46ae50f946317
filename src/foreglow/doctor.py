"""What works on this machine: packages, processor, memory, device, folders, templates."""

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from foreglow.compute.cpu import available_cores
from foreglow.extras import EXTRAS, command
from foreglow.runs import package_versions
from foreglow.sky.cmb import cache_folder

_GIB = 2**30
_COLOURS = {"ok": "green", "absent": "yellow", "fails": "red"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Parameters
    ----------
    what : str
    state : {"ok", "absent", "fails"}
        "absent" is what foreglow can do without; "fails" is what it cannot.
    found : str
        In words: what is there, or what to do.
    """

    what: str
    state: str
    found: str

    def record(self) -> dict[str, Any]:
        """A flat record for `--json`."""
        return asdict(self)


def examine() -> list[Finding]:
    """Look at this machine; nothing is downloaded, and nothing is left behind.

    Returns
    -------
    list of Finding
        In the order to show.
    """
    return [found for look in _LOOKS for found in look()]


def findings_table(findings: Sequence[Finding]) -> Table:
    """Findings for the terminal."""
    table = Table("what", "state", "found", title="foreglow on this machine")
    for finding in findings:
        state = f"[{_COLOURS[finding.state]}]{finding.state}[/]"
        table.add_row(finding.what, state, escape(finding.found))
    return table


def _python() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    for name, version in package_versions().items():
        try:
            import_module(name)
        except Exception as error:  # a broken binary raises nearly anything
            yield Finding(name, "fails", f"{version}, but {type(error).__name__}: {error}")
        else:
            yield Finding(name, "ok", version)


def _extras() -> Iterator[Finding]:
    for name, extra in EXTRAS.items():
        if absent := extra.absent():
            text = f"{', '.join(absent)} not installed: {extra.purpose} need {command(name)}"
            yield Finding(f"extra {name}", "absent", text)
        else:
            yield Finding(f"extra {name}", "ok", f"{extra.purpose}: {', '.join(extra.modules)}")


def _processor() -> Iterator[Finding]:
    import torch

    cores = f"{available_cores()} of {os.cpu_count()} usable"
    yield Finding("cores", "ok", f"{cores}, {torch.get_num_threads()} PyTorch threads")


def _memory() -> Iterator[Finding]:
    meminfo, limit = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if not meminfo.is_file():
        yield Finding("memory", "absent", "cannot be read here; foreglow does not need to know")
        return
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    total, free = (int(lines[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    text = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB available"
    if limit.is_file() and (allowed := limit.read_text().strip()).isdigit():
        text += f"; this process may use {int(allowed) / _GIB:.1f} GiB"
    yield Finding("memory", "ok", text)


def _device() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        build = f"PyTorch {torch.__version__} is built for CUDA {torch.version.cuda or 'none'}"
        yield Finding("CUDA", "absent", f"no device seen ({build}); --device auto takes the cpu")
        return
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        size = f"{properties.total_memory / _GIB:.0f} GiB"
        try:
            ones = torch.ones(64, 64, device=f"cuda:{number}")
            right = float((ones @ ones).sum()) == 64**3
        except RuntimeError as error:
            yield Finding(f"CUDA {number}", "fails", f"{properties.name}, {size}, but {error}")
        else:
            state = "ok" if right else "fails"
            yield Finding(f"CUDA {number}", state, f"{properties.name}, {size}; works")


def _sphere() -> Iterator[Finding]:
    """What foreglow asks of the libraries of the sphere, once, in small."""
    import numpy as np

    from foreglow.sky.galaxy import mock_galaxy

    try:
        finite = bool(np.isfinite(mock_galaxy(16).dust).all())
    except Exception as error:
        yield Finding("mock Galaxy", "fails", f"{type(error).__name__}: {error}")
    else:
        yield Finding("mock Galaxy", "ok" if finite else "fails", "made at Nside 16")


def _folders() -> Iterator[Finding]:
    cache = cache_folder()
    for name, folder, otherwise in (
        ("cache folder", cache, "set FOREGLOW_CACHE to a folder of yours"),
        ("this folder", Path.cwd(), "give --out in a folder of yours"),
    ):
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = f"{shutil.disk_usage(there).free / _GIB:.1f} GiB free"
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            yield Finding(name, "fails", f"{folder}: {error.strerror}; {otherwise}")
        else:
            yield Finding(name, "ok", f"{folder}, {free}")


def _data() -> Iterator[Finding]:
    """Products of the registry that lie in the data folder."""
    from foreglow.data.cache import cache_folder as data_folder
    from foreglow.data.listing import files_there
    from foreglow.data.registry import load_registry

    folder = data_folder()
    there = {product.name: len(files_there(product, folder)) for product in load_registry()}
    names = ", ".join(f"{name} ({n})" for name, n in there.items() if n)
    if names:
        yield Finding("public data", "ok", f"{names} in {folder}")
    else:
        yield Finding("public data", "absent", f"none in {folder}; see `foreglow data list`")


def _templates() -> Iterator[Finding]:
    folder = os.environ.get("PYSM_LOCAL_DATA")
    if folder and Path(folder).is_dir():
        yield Finding("PySM templates", "ok", f"PYSM_LOCAL_DATA is {folder}")
    elif folder:
        yield Finding("PySM templates", "fails", f"PYSM_LOCAL_DATA is {folder}, which is no folder")
    else:
        text = "PYSM_LOCAL_DATA is not set; --sky pysm:... looks in astropy's cache"
        yield Finding("PySM templates", "absent", f"{text}; --sky mock needs none")


_LOOKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python, _extras, _processor, _memory, _device, _sphere, _folders, _data, _templates,
)  # fmt: skip
