"""What a run on public data will take, told before it begins."""

from collections.abc import Iterator, Mapping

from foreglow.maps.memory import format_bytes


def cost_lines(
    disk: Mapping[str, int], memory: int, seconds: Mapping[str, float], cores: str, beside: str = ""
) -> Iterator[str]:
    """Lines for the log.

    Parameters
    ----------
    disk : mapping of str to int
        Bytes by what they are for; what takes none is left out.
    memory : int
        Bytes at the peak.
    seconds : mapping of str to float
        By stage; what takes none is left out.
    cores : str
        On which the times are.
    beside : str
        What to know of the times.
    """
    sizes = ", ".join(f"{format_bytes(n)} {what}" for what, n in disk.items() if n)
    yield f"disk: {sizes}"
    yield f"memory: about {format_bytes(memory)} at the peak"
    parts = ", ".join(f"{stage} {format_time(s)}" for stage, s in seconds.items() if s)
    yield (
        f"time: about {format_time(sum(seconds.values()))} on {cores}, without the download "
        f"({parts}), an estimate by rates of another machine{beside}"
    )


def format_time(seconds: float) -> str:
    """Seconds in the unit in which one says them.

    Examples
    --------
    >>> format_time(45), format_time(1800), format_time(9000)
    ('45 s', '30 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
