"""foreglow learns CMB foregrounds."""

from importlib.metadata import version

__version__ = version("foreglow")
