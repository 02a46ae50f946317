"""A trained context: from the probabilities of single pixels to those of a map."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foreglow.errors import MapError, ModelError, ShapeError
from foreglow.maps import healpix as hp
from foreglow.maps.faces import face_order
from foreglow.model_files import (
    DAMAGED,
    damaged,
    read_card,
    read_temperature,
    read_weights,
    write_model,
)
from foreglow.recognition.context.networks import CONTEXT_NETWORKS
from foreglow.shipped import find_model

MAX_NSIDE = 256  # the whole sky is held at once, about 3 GiB for four models there
_JOB = "context"
_COMMAND = "foreglow recognize context"


@dataclass
class ContextModel:
    """Gives every pixel the log-probabilities that its own data and its neighbours' imply.

    Parameters
    ----------
    network : Module
        Maps (log-probabilities, observed) to logits, in face order.
    kind : str
        Its name in `CONTEXT_NETWORKS`.
    temperature : float
        Divides the logits; fitted after training.
    card : dict
        How it was trained; free form, saved with it.
    """

    network: nn.Module
    kind: str
    temperature: float = 1.0
    card: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def untrained(cls, kind: str, seed: int) -> "ContextModel":
        """A network with weights drawn from `seed`.

        Raises
        ------
        ModelError
            If `kind` is not a network.
        """
        if kind not in CONTEXT_NETWORKS:
            raise ModelError(f"expected context {' or '.join(CONTEXT_NETWORKS)}, got {kind!r}.")
        with torch.random.fork_rng(devices=[]):  # initialisers know the global generator only
            torch.manual_seed(seed)
            network = CONTEXT_NETWORKS[kind]()
        return cls(network.eval(), kind)

    @torch.inference_mode()
    def log_probability(self, log_probability: Tensor, observed: Tensor | None = None) -> Tensor:
        """Log-probabilities with the neighbours' word.

        Parameters
        ----------
        log_probability : Tensor, shape (n_class, n_pix)
            Of each pixel alone, equal odds for the classes beforehand; RING. Any candidate models
            in any order: the context knows of classes only that they form patches.
        observed : Tensor of bool, shape (n_pix,), optional
            By default where the log-probabilities are no NaN.

        Returns
        -------
        Tensor, shape (n_class, n_pix)
            Where not observed it is what the neighbours imply.

        Raises
        ------
        ShapeError
            If the shape is no map of two classes or more.
        MapError
            If the Nside is beyond `MAX_NSIDE`.
        """
        nside = _validate(log_probability)
        if observed is None:
            observed = ~torch.isnan(log_probability).any(0)
        order = face_order(nside).to(log_probability.device)
        logits = self.logits(
            log_probability.float()[None, :, order], observed.to(order.device)[None, order]
        )
        result = torch.empty_like(logits[0])
        result[:, order] = torch.log_softmax(logits[0], 0)
        return result

    def refine(self, probability: NDArray[np.floating]) -> NDArray[np.float32]:
        """Probabilities with the neighbours' word, of those of each pixel alone.

        Parameters
        ----------
        probability : ndarray, shape (n_class, n_pix)
            RING; NaN where not observed, and so it stays.
        """
        device = next(self.network.parameters()).device
        said = self.log_probability(torch.from_numpy(probability).to(device).log())
        return np.where(np.isnan(probability), np.float32(np.nan), said.exp().cpu().numpy())

    def logits(self, log_probability: Tensor, observed: Tensor) -> Tensor:
        """Logits at the temperature, shape (n, n_class, n_pix), of maps in face order."""
        seen = torch.where(observed[:, None], log_probability, 0.0)
        return self.network(seen, observed) / self.temperature

    def save(self, folder: Path) -> None:
        """Write a model directory; the folder appears whole or not at all."""
        card = {**self.card, "network": self.kind, "temperature": self.temperature}
        write_model(folder, self.network, _JOB, card)

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu") -> "ContextModel":
        """Read what `save` wrote, or a shipped model by its name; nothing pickled is loaded.

        Raises
        ------
        ModelError
            If the folder is no model, damaged, or not one of spatial context.
        """
        folder = find_model(folder)
        card = read_card(folder, _JOB, _COMMAND)
        try:
            model = cls.untrained(card.pop("network"), 0)
            read_weights(folder, card, model.network)
            model.temperature = read_temperature(card, folder)
        except DAMAGED as error:
            raise damaged(folder, error, _COMMAND) from error
        model.network.to(device).eval()
        model.card = card
        return model


def _validate(log_probability: Tensor) -> int:
    """The Nside of a map of log-probabilities."""
    shape = tuple(log_probability.shape)
    if len(shape) != 2 or shape[0] < 2 or not hp.isnpixok(shape[1]):
        raise ShapeError(
            f"expected log-probabilities of shape (n_class, 12 Nside^2) with two classes or more, "
            f"got {shape}."
        )
    nside = hp.npix2nside(shape[1])
    validate_nside(nside)
    return nside


def validate_nside(nside: int) -> None:
    """Refuse a Nside that context cannot take.

    Raises
    ------
    MapError
        If it is beyond `MAX_NSIDE` or no power of two.
    """
    if nside & (nside - 1):
        raise MapError(f"expected an Nside that is a power of two, got {nside}.")
    if nside > MAX_NSIDE:
        raise MapError(
            f"spatial context holds the whole sky in memory, so it takes maps up to Nside "
            f"{MAX_NSIDE}, got Nside {nside}; lower the Nside of the maps (a pixel then also "
            "holds more signal), or classify without context."
        )
