"""A trained model of the dust: networks and what they need to see, saved without pickle."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from foreglow.dust.networks import DustNetwork, Target, make_network
from foreglow.dust.orientation import finer
from foreglow.errors import ModelError, ShapeError
from foreglow.maps.gnomonic import Grid
from foreglow.model_files import DAMAGED, damaged, read_card, read_weights, write_model
from foreglow.shipped import find_model

_JOB = "dust"
_COMMAND = "foreglow dust train"


@dataclass(repr=False)
class DustModel:
    """Dust from cutouts of the HI cube: one network, or several trained from different seeds.

    Parameters
    ----------
    members : ModuleList of DustNetwork
        They hold their own normalisation: K come in, the unit of the target goes out.
    network : str
        Their name in `foreglow.dust.networks.NETWORKS`.
    inputs : str
        What they see of the channels: one of `foreglow.dust.networks.INPUTS`.
    width : int
        Channels of their first level.
    velocity_kms : tuple of float
        Centres of the channels (LSR), ascending.
    grid : Grid
        Of the cutouts that they were trained on.
    nside : int
        Of the maps that those came from.
    target_unit : str
    target : str
        "intensity", or "polarisation": I, Q and U.
    card : dict
        How it was trained and what it scored; free form, saved with it.
    """

    members: nn.ModuleList
    network: str
    inputs: str
    width: int
    velocity_kms: tuple[float, ...]
    grid: Grid
    nside: int
    target_unit: str
    target: Target = "intensity"
    card: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """A line for the end of a notebook's cell."""
        return (
            f"<DustModel {self.network} of {self.inputs}, {self.target}, "
            f"{len(self.members)} members: "
            f"{len(self.velocity_kms)} channels from {self.velocity_kms[0]:g} to "
            f"{self.velocity_kms[-1]:g} km/s, dust in {self.target_unit}>"
        )

    @classmethod
    def untrained(
        cls,
        network: str,
        inputs: str,
        width: int,
        velocity_kms: Sequence[float] | np.ndarray,
        grid: Grid,
        nside: int,
        target_unit: str,
        seeds: Sequence[int] = (0,),
        target: Target = "intensity",
    ) -> "DustModel":
        """Networks with weights drawn from seeds, one a member; their scales are not measured yet.

        Raises
        ------
        ModelError
            If there is no such network, inputs or target, or fewer than two channels.
        """
        velocity = tuple(float(v) for v in velocity_kms)
        members = []
        for seed in seeds:
            with torch.random.fork_rng(devices=[]):  # initialisers know the global generator only
                torch.manual_seed(seed)
                members.append(make_network(network, inputs, velocity, width, target))
        # convolutions are faster so, and what is saved and loaded adds up in the same order
        modules = nn.ModuleList(members).to(memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]
        return cls(modules, network, inputs, width, velocity, grid, nside, target_unit, target)

    def __call__(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """The mean of the members' maps, without their axis; all else as `each`."""
        return self.each(inputs, mask).mean(0)

    @torch.inference_mode()
    def each(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """The map of each member.

        Parameters
        ----------
        inputs : Tensor, shape (batch, channel, fine n, fine n)
            Brightness temperature [K] at `velocity_kms`; any value, NaN too, where masked.
        mask : Tensor of bool, shape (batch, n, n)
            True where the sky counts.

        Returns
        -------
        Tensor, shape (member, batch, n, n), in `target_unit`
            Zero where masked. Of polarisation (member, batch, 3, n, n): I, Q and U, those in the
            frame of the cutout.

        Raises
        ------
        ShapeError
            If there are other channels than the model's, or the cutouts have a size that four
            halvings do not divide.
        """
        size = tuple(side // self.fine for side in inputs.shape[2:])
        if mask.dtype != torch.bool or mask.shape != (len(inputs), *size):
            raise ShapeError(
                f"expected a mask of bool, shape {(len(inputs), *size)} as the inputs "
                f"{tuple(inputs.shape)} have it, got {mask.dtype} of shape {tuple(mask.shape)}"
            )
        seen = torch.where(finer(mask, self.fine).unsqueeze(1), inputs, 0.0)
        made = [m(seen, mask) for m in self.networks]
        known = mask if self.target == "intensity" else mask.unsqueeze(1)
        return torch.stack([torch.where(known, maps, 0.0) for maps in made])

    @property
    def fine(self) -> int:
        """Pixels of the inputs along a side of each pixel of the grid."""
        return self.networks[0].fine

    @property
    def networks(self) -> list[DustNetwork]:
        """The members, as what they are."""
        return [cast(DustNetwork, member) for member in self.members]

    def find_channels(self, velocity_kms: Sequence[float] | np.ndarray) -> np.ndarray:
        """Which channels of a cube are the model's.

        Parameters
        ----------
        velocity_kms : sequence of float
            Centres of the channels of a cube (LSR), ascending.

        Returns
        -------
        ndarray of int, shape (channel,)
            The nearest one to each of `velocity_kms` of the model.

        Raises
        ------
        ModelError
            If one of them is farther away than half a channel, or one serves twice.
        """
        have, want = np.asarray(velocity_kms, dtype=float), np.asarray(self.velocity_kms)
        half = 0.5 * float(np.diff(want).min())
        found = np.abs(have[:, None] - want).argmin(0) if have.size else np.zeros(0, int)
        bad = not have.size or (np.abs(have[found] - want) > half * (1 + 1e-6)).any()
        if bad or len(set(found.tolist())) < len(want):
            raise ModelError(
                f"expected the {len(want)} channels that the model was trained on, "
                f"{_range(want)}, each within {half:.3g} km/s, got {_range(have)}; prepare the "
                "cube on these channels, or train a model on yours"
            )
        return found

    def to(self, device: torch.device | str) -> "DustModel":
        """The same model, moved to a device."""
        self.members.to(device)
        return self

    def save(self, folder: Path) -> None:
        """Write `weights.safetensors` and `model.toml`; the folder appears whole or not at all."""
        card = {
            **self.card,
            "network": self.network,
            "inputs": self.inputs,
            "width": self.width,
            "members": len(self.members),
            "nside": self.nside,
            "target_unit": self.target_unit,
            "target": self.target,
            "velocity_kms": list(self.velocity_kms),
            "grid": asdict(self.grid),
        }
        write_model(folder, self.members, _JOB, card)

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu") -> "DustModel":
        """Read what `save` wrote, or a shipped model by its name; nothing pickled is loaded.

        Raises
        ------
        ModelError
            If the folder is no model, damaged, or not one of dust.
        """
        folder = find_model(folder)
        card = read_card(folder, _JOB, _COMMAND)
        try:
            names = ("network", "inputs", "width", "velocity_kms", "nside", "target_unit")
            stated = {name: card.pop(name) for name in names}
            stated["target"] = card.pop("target", "intensity")
            grid, seeds = Grid(**card.pop("grid")), range(card.pop("members"))
            model = cls.untrained(**stated, grid=grid, seeds=seeds)
            read_weights(folder, card, model.members)
        except DAMAGED as error:
            raise damaged(folder, error, _COMMAND) from error
        model.card = card
        return model.to(device)


def _range(velocity: np.ndarray) -> str:
    if not velocity.size:
        return "none"
    return f"{velocity.size} from {velocity[0]:g} to {velocity[-1]:g} km/s"
