"""Errors of foreglow: each says what was expected, what it got and what to do."""


class ForeglowError(Exception):
    """A mistake a user can mend; the command line prints it and exits with 2."""


class MapError(ForeglowError):
    """A sky map that cannot be used as it is (unit, ordering, frame, pixels, file)."""


class InstrumentError(ForeglowError):
    """Bands that do not make the instrument asked for."""


class ShapeError(ForeglowError):
    """Arrays whose shapes do not agree."""


class ModelError(ForeglowError):
    """A model directory that is missing, damaged or made for something else."""


class SkyError(ForeglowError):
    """A source of sky templates that cannot be read."""


class RunError(ForeglowError):
    """A run directory that cannot be written, continued or reported."""


class DataError(ForeglowError):
    """A public data product that is unknown, cannot be fetched or is not what it should be."""


class WriteError(ForeglowError):
    """A file or folder that cannot be written: no room, no permission, no such folder."""
