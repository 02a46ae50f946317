"""Model directories: weights as safetensors, the card as TOML; nothing pickled is read."""

import hashlib
import json
import math
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from foreglow.errors import ModelError, RunError, with_nearest
from foreglow.files import new_directory, remove_directory, settle, write_text
from foreglow.shipped import shipped_models

_WEIGHTS = "weights.safetensors"
_CARD = "model.toml"
# what a card or weights raise that are not as `write_model` writes them
DAMAGED = (
    KeyError, TypeError, AttributeError, ValueError, RuntimeError, OSError, SafetensorError,
)  # fmt: skip


def write_model(folder: Path, network: nn.Module, job: str, card: Mapping[str, Any]) -> None:
    """Write a model directory; the folder appears whole or not at all.

    Parameters
    ----------
    folder : Path
    network : Module
    job : str
        What the model is for; `read_card` asks for it.
    card : mapping
        Plain values, in tables or not; what is None is left out.
    """
    weights = save({k: v.cpu().contiguous() for k, v in network.state_dict().items()})
    table = {
        **card,
        "foreglow_version": version("foreglow"),
        "job": job,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    with new_directory(folder) as temporary:
        (temporary / _WEIGHTS).write_bytes(weights)
        (temporary / _CARD).write_text(tomli_w.dumps(_without_none(table)), encoding="utf-8")


def read_card(folder: Path, job: str, command: str) -> dict[str, Any]:
    """The card of a model directory.

    Parameters
    ----------
    folder : Path
    job : str
    command : str
        What writes such a directory, for the messages.

    Raises
    ------
    ModelError
        If there is none, it is no TOML, or the model is for another job.
    """
    settle(folder)
    path = folder / _CARD
    if not path.is_file():
        name, known = str(folder), (shipped.name for shipped in shipped_models())
        meant = with_nearest(name, known).removeprefix(name)
        raise ModelError(
            f"expected a model directory with {_CARD}, but {path} does not exist; give the folder "
            f"that `{command} --out` wrote, or the name of a model that `foreglow models` "
            f"lists{meant}."
        )
    try:
        card = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not valid TOML: {error}.") from error
    if (found := card.pop("job", None)) != job:
        raise ModelError(
            f"{folder} holds a model for {found}, not for {job}; give the folder that "
            f"`{command} --out` wrote."
        )
    return card


def read_weights(folder: Path, card: dict[str, Any], network: nn.Module) -> None:
    """Load the weights that a card describes into a network; takes their hash off the card.

    Raises
    ------
    ModelError
        If the file is not the one that the card describes, or its network is not the one that this
        version of foreglow makes of the card; whatever else is wrong with it raises one of
        `DAMAGED`.
    """
    weights = folder / _WEIGHTS
    if _sha256(weights) != card.pop("weights_sha256"):
        raise ModelError(
            f"{weights} is not the file that {folder / _CARD} describes (its SHA-256 differs); "
            "copy the model directory again, or train it anew."
        )
    found, expected = load_file(weights), network.state_dict()
    if {k: v.shape for k, v in found.items()} != {k: v.shape for k, v in expected.items()}:
        raise ModelError(
            f"{folder} holds another network than this version of foreglow makes of its card: it "
            f"was written by {card.get('foreglow_version')}, this is {version('foreglow')}, and "
            "one number may stand for several checkouts; train it anew, or use the one that wrote "
            "it."
        )
    network.load_state_dict(found)


@contextmanager
def model_to_be(out: str | Path | None, resume: bool, n_process: int = 1) -> Iterator[Path]:
    """The directory that a training writes its model to; a temporary one if none is wanted.

    Raises
    ------
    RunError
        If a training without one is to be resumed, or shared by several processes.
    """
    if out is not None:
        yield Path(out)
        return
    if resume or n_process > 1:
        raise RunError(
            "expected out=, where a training keeps its checkpoints, with resume=True or several "
            "processes, got none; give a folder to be."
        )
    with tempfile.TemporaryDirectory(prefix="foreglow-") as folder:
        yield Path(folder) / "model"


def open_training(out: Path, settings: dict[str, Any], resume: bool) -> Path:
    """The folder `OUT.training` for checkpoints, with what the training is made with.

    Parameters
    ----------
    out : Path
        The model directory to be.
    settings : dict
        Plain values; an interrupted training goes on with the same ones only.
    resume : bool

    Raises
    ------
    ModelError
        If `out` exists.
    RunError
        If an interrupted training lies there and is not to be resumed, or had other settings.
    """
    settle(out)
    work = _training_folder(out)
    if out.exists():
        remove_directory(work)  # of a training that was killed when the model was written
        raise ModelError(f"{out} exists; give another out=, or remove it first.")
    interrupted = any(work.glob("**/last.ckpt"))
    if interrupted and not resume:
        raise RunError(f"{work} holds an interrupted training; resume=True goes on with it.")
    path = work / "settings.json"
    text = json.dumps(settings, indent=1)
    if interrupted and path.is_file():
        before, now = json.loads(path.read_text(encoding="utf-8")), json.loads(text)
        differ = [key for key in now if before.get(key) != now[key]]
        if differ:
            raise RunError(
                f"{work} was begun with another {', '.join(differ)}; resume with the same, or give "
                "another out=."
            )
    write_text(path, text)
    return work


def close_training(out: Path) -> None:
    """Remove the checkpoints of a training, when its model is written."""
    remove_directory(_training_folder(out))


def _training_folder(out: Path) -> Path:
    return out.with_name(out.name + ".training")


def read_temperature(card: dict[str, Any], folder: Path) -> float:
    """The temperature of a model, taken off its card; 1 where there is none.

    Raises
    ------
    ModelError
        If it is no number above zero.
    """
    value = card.pop("temperature", 1.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ModelError(
            f"expected a temperature above zero in {folder / _CARD}, but {value!r} stands there; "
            "take the line out for a temperature of 1, or train the model anew."
        )
    return float(value)


def damaged(folder: Path, error: Exception, command: str) -> ModelError:
    """What to tell of a directory whose reading raised one of `DAMAGED`."""
    return ModelError(
        f"{folder} is not a whole model directory ({error}); it needs {_CARD} and {_WEIGHTS} as "
        f"`{command}` writes them."
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has no null: JSON's round trip makes plain types, and what is None is left out."""

    def without_none(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {k: v for k, v in pairs if v is not None}

    return json.loads(json.dumps(table), object_pairs_hook=without_none)
