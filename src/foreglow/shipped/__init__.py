"""Small trained models that come with the package, found by name where a folder is asked for."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class ShippedModel:
    """A model that comes with the package.

    Parameters
    ----------
    name : str
        To be given where a command or `load` takes a model directory.
    use : str
        The command and option that take it.
    command : str
        What made it, less `--out`.
    trust : str
        What it was trained on, how well it did, and where it is not to be trusted.
    """

    name: str
    use: str
    command: str
    trust: str

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return _FOLDER / self.name

    @property
    def bytes(self) -> int:
        """Its size on disk."""
        return sum(file.stat().st_size for file in self.folder.iterdir())


def shipped_models() -> tuple[ShippedModel, ...]:
    """All models that come with the package."""
    text = (_FOLDER / "models.toml").read_text(encoding="utf-8")
    return tuple(ShippedModel(**row) for row in tomllib.loads(text)["model"])


def find_model(model: str | Path) -> Path:
    """The folder of a model: the one given, or else the shipped one of that name."""
    folder = Path(model)
    if not folder.exists():
        for shipped in shipped_models():
            if shipped.name == str(model):
                return shipped.folder
    return folder
