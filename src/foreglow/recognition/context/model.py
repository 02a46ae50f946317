"""A trained context: from the probabilities of single pixels to those of a map."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foreglow.errors import MapError, ModelError, ShapeError
from foreglow.files import scratch_directory
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
from foreglow.recognition.context.networks import CONTEXT_NETWORKS, SphereUNet
from foreglow.recognition.context.streamed import WHOLE_NSIDE, Read, logits_by_tiles
from foreglow.recognition.models import REFERENCE_NSIDE
from foreglow.shipped import find_model

_WHOLE_BYTES = 1 << 10  # a pixel and model, where the whole sky is held at once; measured
_TILE_BYTES = 20 << 20  # a model and thread, of tiles; measured
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
    def log_probability(
        self,
        log_probability: Tensor,
        observed: Tensor | None = None,
        beside: str | Path | None = None,
    ) -> Tensor:
        """Log-probabilities with the neighbours' word.

        Parameters
        ----------
        log_probability : Tensor, shape (n_class, n_pix)
            Of each pixel alone, equal odds for the classes beforehand; RING. Any candidate models
            in any order: the context knows of classes only that they form patches.
        observed : Tensor of bool, shape (n_pix,), optional
            By default where the log-probabilities are no NaN.
        beside : path, optional
            Beside it files lie meanwhile, for a U-Net above Nside 64; by default in the system's
            temporary folder.

        Returns
        -------
        Tensor, shape (n_class, n_pix)
            Where not observed it is what the neighbours imply.

        Raises
        ------
        ShapeError
            If the shape is no map of two classes or more.
        MapError
            If the Nside is no power of two.
        WriteError
            If there is no room for the files.
        """
        n_class, nside = _validate(log_probability)
        if observed is None:
            observed = ~torch.isnan(log_probability).any(0)
        known = observed
        result = torch.empty(log_probability.shape, device=log_probability.device)
        for pixels, said in self._said(
            lambda ring: (log_probability[:, ring], known[ring]), nside, n_class, beside
        ):
            result[:, pixels] = said.to(result.device)
        return result

    @torch.inference_mode()
    def refine(
        self, probability: NDArray[np.floating], beside: str | Path | None = None
    ) -> NDArray[np.float32]:
        """Probabilities with the neighbours' word, of those of each pixel alone.

        Parameters
        ----------
        probability : ndarray, shape (n_class, n_pix)
            RING; NaN where not observed, and so it stays.
        beside : path, optional
            As for `log_probability`.
        """
        n_class, nside = _validate(probability)

        def read(ring: NDArray[np.integer]) -> tuple[Tensor, Tensor]:
            alone = torch.from_numpy(probability[:, ring])
            return alone.log(), ~torch.isnan(alone).any(0)

        result = np.empty(probability.shape, np.float32)
        for pixels, said in self._said(read, nside, n_class, beside):
            hole = np.isnan(probability[:, pixels])
            result[:, pixels] = np.where(hole, np.float32(np.nan), said.exp().cpu().numpy())
        return result

    @property
    def noisiest(self) -> float:
        """The loudest noise it was taught with, in units of the instrument's at Nside 16."""
        training = self.card.get("training", {})
        finer = training.get("nside", REFERENCE_NSIDE) / REFERENCE_NSIDE
        return training.get("noise_range", [0, np.inf])[1] * finer

    def bytes_for(self, nside: int, n_class: int) -> int:
        """Memory that `refine` takes at most, its result included."""
        n_pix = hp.nside2npix(nside)
        if not self._by_tiles(nside):
            return _WHOLE_BYTES * n_class * n_pix
        a_thread = _TILE_BYTES * n_class * torch.get_num_threads()
        result, sums = 4 * n_class, 4 * (n_class + 1) / 3  # bytes a pixel; sums of coarser ones
        return self.bytes_for(WHOLE_NSIDE, n_class) + a_thread + int((result + sums) * n_pix)

    def _by_tiles(self, nside: int) -> bool:
        return isinstance(self.network, SphereUNet) and nside > WHOLE_NSIDE

    def _said(
        self, read: Read, nside: int, n_class: int, beside: str | Path | None
    ) -> Iterator[tuple[NDArray[np.integer], Tensor]]:
        """Log-probabilities of RING pixels, in turn."""
        if self._by_tiles(nside):
            assert isinstance(self.network, SphereUNet)
            near = beside or Path(tempfile.gettempdir(), "foreglow")
            with scratch_directory(f"{near}.neighbours") as folder:
                for pixels, logits in logits_by_tiles(self.network, read, nside, n_class, folder):
                    yield pixels, torch.log_softmax(logits / self.temperature, 0)
            return
        order = face_order(nside).numpy()
        device = next(self.network.parameters()).device
        alone, seen = (one.to(device)[None] for one in read(order))
        yield order, torch.log_softmax(self.logits(alone.float(), seen)[0], 0)

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


def _validate(log_probability: Tensor | NDArray[np.floating]) -> tuple[int, int]:
    """Number of classes and Nside of a map of log-probabilities."""
    shape = tuple(log_probability.shape)
    if len(shape) != 2 or shape[0] < 2 or not hp.isnpixok(shape[1]):
        raise ShapeError(
            f"expected log-probabilities of shape (n_class, 12 Nside^2) with two classes or more, "
            f"got {shape}."
        )
    nside = hp.npix2nside(shape[1])
    validate_nside(nside)
    return shape[0], nside


def validate_nside(nside: int) -> None:
    """Refuse a Nside that is no power of two: its faces have no halves.

    Raises
    ------
    MapError
    """
    if nside & (nside - 1):
        raise MapError(f"expected an Nside that is a power of two, got {nside}.")
