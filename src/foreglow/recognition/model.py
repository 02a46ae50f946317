"""A trained recogniser: network, instrument and candidate models, saved without pickle."""

import hashlib
import json
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foreglow import __version__
from foreglow.errors import ModelError
from foreglow.recognition.networks import NETWORKS
from foreglow.recognition.simulate import MODELS
from foreglow.sky.instrument import Instrument
from foreglow.training import replace_directory

_WEIGHTS = "weights.safetensors"
_CARD = "model.toml"
# what a card or weights raise that are not as `save` writes them
_DAMAGED = (
    KeyError, TypeError, AttributeError, ValueError, RuntimeError, OSError, SafetensorError,
)  # fmt: skip


@dataclass
class Recogniser:
    """Probabilities of foreground models for pixels of one instrument.

    Parameters
    ----------
    network : Module
        Maps (data, sigma) to logits; holds its own normalisation.
    kind : str
        Its name in `NETWORKS`.
    instrument : Instrument
    models : tuple of str
        Candidate models; class k is `models[k]`.
    card : dict
        How it was trained and what it scored; free form, saved with it.
    """

    network: nn.Module
    kind: str
    instrument: Instrument
    models: tuple[str, ...]
    card: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def untrained(
        cls, kind: str, instrument: Instrument, models: tuple[str, ...], seed: int
    ) -> "Recogniser":
        """A network with weights drawn from `seed`.

        Raises
        ------
        ModelError
            If `kind` is not a network.
        """
        if kind not in NETWORKS:
            raise ModelError(f"expected network {' or '.join(NETWORKS)}, but {kind!r} came.")
        with torch.random.fork_rng(devices=[]):  # initialisers know the global generator only
            torch.manual_seed(seed)
            network = NETWORKS[kind](instrument, len(models))
        return cls(network.eval(), kind, instrument, models)

    @torch.inference_mode()
    def log_probability(self, data: Tensor, sigma: Tensor) -> Tensor:
        """Log-probabilities of the models.

        Parameters
        ----------
        data : Tensor, shape (n, 2, n_band)
            Q, U [uK_RJ], bands ascending as in the instrument.
        sigma : Tensor, shape (n, n_band)
            Noise rms of Q and of U [uK_RJ].

        Returns
        -------
        Tensor, shape (n, n_class)
        """
        return torch.log_softmax(self.network(data, sigma), dim=1)

    def save(self, folder: Path) -> None:
        """Write `weights.safetensors` and `model.toml`; the folder appears whole or not at all."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".saving-"))
        state = {k: v.cpu().contiguous() for k, v in self.network.state_dict().items()}
        save_file(state, temporary / _WEIGHTS)
        table = {
            **self.card,
            "foreglow_version": __version__,
            "job": "recognition",
            "network": self.kind,
            "models": list(self.models),
            "weights_sha256": _sha256(temporary / _WEIGHTS),
            "instrument": asdict(self.instrument),
        }
        (temporary / _CARD).write_text(tomli_w.dumps(_without_none(table)), encoding="utf-8")
        replace_directory(temporary, folder)

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu") -> "Recogniser":
        """Read what `save` wrote; nothing pickled is loaded.

        Raises
        ------
        ModelError
            If the folder is no model, damaged, or not one of recognition.
        """
        folder = Path(folder)
        card = _read_card(folder)
        try:
            rows = card.pop("instrument")
            instrument = Instrument(rows.pop("name"), **{k: tuple(v) for k, v in rows.items()})
            model = cls.untrained(card.pop("network"), instrument, tuple(card.pop("models")), 0)
            weights = folder / _WEIGHTS
            if _sha256(weights) != card.pop("weights_sha256"):
                raise ModelError(
                    f"{weights} is not the file that {folder / _CARD} describes (its SHA-256 "
                    "differs); copy the model directory again, or train it anew."
                )
            model.network.load_state_dict(load_file(weights))
        except _DAMAGED as error:
            raise ModelError(
                f"{folder} is not a whole model directory ({error}); it needs {_CARD} and "
                f"{_WEIGHTS} as `foreglow recognize train` writes them."
            ) from error
        model.network.to(device).eval()
        model.card = card
        return model


def _read_card(folder: Path) -> dict[str, Any]:
    path = folder / _CARD
    if not path.is_file():
        raise ModelError(
            f"expected a model directory with {_CARD}, but {path} does not exist; give the folder "
            "that `foreglow recognize train --out` wrote."
        )
    try:
        card = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not valid TOML: {error}.") from error
    if card.pop("job", None) != "recognition":
        raise ModelError(f"{folder} holds a model, but not one of foreground recognition.")
    models = card.get("models")
    names = map(str, models) if isinstance(models, list) else ()
    strangers = [name for name in names if name not in MODELS]
    if strangers:
        raise ModelError(
            f"{folder} knows models {', '.join(strangers)}, which this foreglow does not; it has "
            f"{', '.join(MODELS)}."
        )
    return card


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has no null: JSON's round trip makes plain types, and what is None is left out."""
    plain = json.loads(json.dumps(table))
    return {k: v for k, v in plain.items() if v is not None}
