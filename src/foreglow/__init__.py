"""foreglow learns CMB foregrounds.

The public names are imported when first used, so that the command line starts quickly.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foreglow.errors import ForeglowError
    from foreglow.recognition.classify import classify
    from foreglow.recognition.context.model import ContextModel
    from foreglow.recognition.evaluate import evaluate
    from foreglow.recognition.fitted import fit_maps
    from foreglow.recognition.model import Recogniser
    from foreglow.recognition.skies import simulate_sky
    from foreglow.recognition.train import TrainingPlan, train
    from foreglow.sky.instrument import load_instrument
    from foreglow.sky.templates import Templates, load_templates

__version__ = version("foreglow")

_HOMES = {
    "ContextModel": "recognition.context.model",
    "ForeglowError": "errors",
    "Recogniser": "recognition.model",
    "Templates": "sky.templates",
    "TrainingPlan": "recognition.train",
    "classify": "recognition.classify",
    "evaluate": "recognition.evaluate",
    "fit_maps": "recognition.fitted",
    "load_instrument": "sky.instrument",
    "load_templates": "sky.templates",
    "simulate_sky": "recognition.skies",
    "train": "recognition.train",
}
__all__ = [
    "ContextModel",
    "ForeglowError",
    "Recogniser",
    "Templates",
    "TrainingPlan",
    "classify",
    "evaluate",
    "fit_maps",
    "load_instrument",
    "load_templates",
    "simulate_sky",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'foreglow' has no attribute {name!r}")
    return getattr(import_module(f"foreglow.{_HOMES[name]}"), name)
