"""Whether the disks can hold what is to come."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from foreglow.errors import RunError
from foreglow.maps.memory import format_bytes


def validate_room(needs: Iterable[tuple[Path, int]]) -> None:
    """Check that the disks can hold what is to come.

    Parameters
    ----------
    needs : iterable of (Path, int)
        A folder, which may not be there yet, and the bytes to come into it.

    Raises
    ------
    RunError
        If one cannot.
    """
    sums: dict[int, tuple[Path, int]] = {}
    for folder, size in needs:
        existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        place = existing.stat().st_dev
        sums[place] = (existing, sums.get(place, (existing, 0))[1] + size)
    for existing, size in sums.values():
        free = shutil.disk_usage(existing).free
        if size > free:
            raise RunError(
                f"{existing}: expected room for {format_bytes(size)}, got {format_bytes(free)}; "
                "free some, give another out=, or name another folder of data by FOREGLOW_DATA."
            )
