"""Checkpoints of a training: one file each, safetensors with the rest as JSON in its header."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.plugins.io import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from foreglow.errors import RunError
from foreglow.files import make_folder, new_file

_STATE = "state"  # the entry of the header


class PlainCheckpoints(CheckpointIO):
    """How Lightning writes and reads checkpoints: nothing pickled is written or read."""

    def save_checkpoint(self, checkpoint, path, storage_options=None) -> None:
        """Write a checkpoint, whole or not at all."""
        tensors: dict[str, Tensor] = {}
        state = json.dumps(_to_plain(checkpoint, tensors))
        make_folder(Path(path).parent)
        with new_file(path) as temporary:
            temporary.write_bytes(save(tensors, {_STATE: state}))

    def load_checkpoint(self, path, map_location=None, weights_only=None) -> dict[str, Any]:
        """Read what `save_checkpoint` wrote.

        Raises
        ------
        RunError
            If the file is something else, or damaged.
        """
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return _from_plain(json.loads(file.metadata()[_STATE]), tensors)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise RunError(
                f"the checkpoint {path} cannot be read ({error}); delete it to train anew."
            ) from error

    def remove_checkpoint(self, path) -> None:
        """Remove a checkpoint, if it is there."""
        Path(path).unlink(missing_ok=True)


def _to_plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Nested dicts, lists and numbers as JSON; tensors go to `tensors`, named in their place."""
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):  # as pairs, for keys may be integers
        return {"dict": [[k, _to_plain(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_to_plain(v, tensors) for v in value]}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}")


def _from_plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {k: _from_plain(v, tensors) for k, v in content}
    items = [_from_plain(v, tensors) for v in content]
    return tuple(items) if kind == "tuple" else items
