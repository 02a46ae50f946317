"""A trained recogniser: network, instrument and candidate models, saved without pickle."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreglow.errors import ModelError
from foreglow.model_files import (
    DAMAGED,
    damaged,
    read_card,
    read_temperature,
    read_weights,
    write_model,
)
from foreglow.recognition.models import MODELS, defined, definitions_of, dust_tests
from foreglow.recognition.network.networks import NETWORKS, FarsianNetwork, ForeglowNetwork
from foreglow.shipped import find_model
from foreglow.sky.instrument import Instrument, instrument_of

_JOB = "recognition"
_COMMAND = "foreglow recognize train"

_BATCH = 65536


@dataclass(repr=False)
class Recogniser:
    """Probabilities of foreground models for pixels of one instrument.

    Parameters
    ----------
    network : FarsianNetwork or ForeglowNetwork
        Maps (data, sigma) to logits; holds its own normalisation.
    kind : str
        Its name in `NETWORKS`.
    instrument : Instrument
    models : tuple of str
        Candidate models, names of `MODELS` or a user's own; class k is `models[k]`.
    card : dict
        How it was trained and what it scored; free form, saved with it.
    temperature : float
        Divides the logits, so that probabilities are neither too sure nor too timid; `train` fits
        it.
    """

    network: FarsianNetwork | ForeglowNetwork
    kind: str
    instrument: Instrument
    models: tuple[str, ...]
    card: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0

    def __repr__(self) -> str:
        """A line for the end of a notebook's cell."""
        models, bands = ", ".join(self.models), self.instrument
        return f"<Recogniser {self.kind}: {models}; {bands.n_band} bands of {bands.name}>"

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
            raise ModelError(f"expected network {' or '.join(NETWORKS)}, got {kind!r}.")
        with torch.random.fork_rng(devices=[]):  # initialisers know the global generator only
            torch.manual_seed(seed)
            network = NETWORKS[kind](instrument, len(models), dust_tests(models))
        return cls(network.eval(), kind, instrument, models)

    @torch.inference_mode()
    def log_probability(self, data: Tensor, sigma: Tensor) -> Tensor:
        """Log-probabilities of the models, at the temperature of the model.

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
        return torch.log_softmax(self.network(data, sigma) / self.temperature, dim=1)

    def save(self, folder: Path) -> None:
        """Write `weights.safetensors` and `model.toml`; the folder appears whole or not at all."""
        card = {
            **self.card,
            "network": self.kind,
            "models": list(map(str, self.models)),
            "definitions": definitions_of(self.models) or None,
            "temperature": self.temperature,
            "instrument": asdict(self.instrument),
        }
        write_model(folder, self.network, _JOB, card)

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu") -> "Recogniser":
        """Read what `save` wrote, or a shipped model by its name; nothing pickled is loaded.

        Raises
        ------
        ModelError
            If the folder is no model, damaged, or not one of recognition.
        """
        folder = find_model(folder)
        card = read_card(folder, _JOB, _COMMAND)
        definitions = card.pop("definitions", {})
        _validate_models(card, definitions, folder)
        try:
            instrument = instrument_of(card.pop("instrument"))
            models = tuple(defined(name, definitions) for name in card.pop("models"))
            model = cls.untrained(card.pop("network"), instrument, models, 0)
            model.temperature = read_temperature(card, folder)
            read_weights(folder, card, model.network)
        except DAMAGED as error:
            raise damaged(folder, error, _COMMAND) from error
        model.network.to(device).eval()
        model.card = card
        return model


def _validate_models(card: dict[str, Any], definitions: dict[str, Any], folder: Path) -> None:
    models = card.get("models")
    names = map(str, models) if isinstance(models, list) else ()
    unknown = [name for name in names if name not in {*MODELS, *definitions}]
    if unknown:
        raise ModelError(
            f"{folder} knows models {', '.join(unknown)}, which this foreglow does not; it has "
            f"{', '.join(MODELS)}."
        )


def pixel_log_probability(model: Recogniser, data: np.ndarray, sigma: np.ndarray) -> Tensor:
    """Log-probabilities of the models for every pixel of maps in memory.

    Parameters
    ----------
    model : Recogniser
    data : ndarray, float32, shape (2, n_band, n_pix)
        Q, U [uK_RJ].
    sigma : ndarray, shape (n_band,)
        Noise rms of Q and of U [uK_RJ].

    Returns
    -------
    Tensor, shape (n_class, n_pix)
        On the device of the model.
    """
    device = next(model.network.parameters()).device
    rms = torch.from_numpy(sigma).float().to(device)
    parts = []
    for start in range(0, data.shape[2], _BATCH):
        block = np.ascontiguousarray(np.moveaxis(data[:, :, start : start + _BATCH], 2, 0))
        vectors = torch.from_numpy(block).to(device)
        parts.append(model.log_probability(vectors, rms.expand(len(vectors), -1)))
    return torch.cat(parts).T
