"""What sdist and wheel hold; `make dist` also installs the wheel alone and runs it."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "foreglow"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Names in the wheel, and in the sdist without its top folder."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", folder],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive, tarfile.open(sdist) as tar:
        files = [m.name.partition("/")[2] for m in tar.getmembers() if m.isfile()]
        return set(archive.namelist()), set(files)


def package_files():
    """Every file of the package that is not made by running it."""
    paths = (p for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(ROOT / "src").as_posix() for p in paths}


def test_the_wheel_holds_the_package_and_its_presets(built):
    wheel, _ = built
    ours = {name for name in wheel if ".dist-info/" not in name}
    assert ours == package_files()
    assert "foreglow/presets/farsian2020.toml" in ours
    assert "foreglow/presets/instruments/quijote+litebird.toml" in ours
    assert "foreglow/report/page/templates/page.html.j2" in ours
    assert "foreglow/report/page/style.css" in ours
    assert any(name.endswith("licenses/LICENSE") for name in wheel)


def test_the_sdist_holds_what_it_takes_to_build_and_test(built):
    _, sdist = built
    assert {f"src/{name}" for name in package_files()} <= sdist
    needed = {"pyproject.toml", "README.md", "LICENSE", "Makefile", "requirements.lock"}
    assert needed | {"tests/conftest.py", "docs/index.md", "CITATION.cff"} <= sdist


@pytest.mark.parametrize("kind", [0, 1], ids=["wheel", "sdist"])
def test_nothing_stray(built, kind):
    stray = ("__pycache__", "_build", ".venv", ".ipynb", ".ckpt", ".pkl", "runs/", "foreglow-demo")
    assert not [name for name in built[kind] if any(part in name for part in stray)]
