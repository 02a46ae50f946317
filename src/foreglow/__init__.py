"""foreglow learns CMB foregrounds.

The public names are imported when first used, so that the command line starts quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foreglow.dust.model import DustModel
    from foreglow.dust.plan import DustPlan
    from foreglow.dust.predict import predict_dust
    from foreglow.dust.train import train_dust
    from foreglow.errors import ForeglowError
    from foreglow.hi_cube.cube import open_cube
    from foreglow.hi_cube.prepare import prepare as prepare_cube
    from foreglow.maps.patches import adaptive_patches, clustered_patches
    from foreglow.recognition.classify import classify
    from foreglow.recognition.context.model import ContextModel
    from foreglow.recognition.context.train import ContextPlan
    from foreglow.recognition.evaluation.forecast import forecast
    from foreglow.recognition.evaluation.measure_r import measure_r
    from foreglow.recognition.fit_maps import fit
    from foreglow.recognition.models import ForegroundModel
    from foreglow.recognition.network.recogniser import Recogniser
    from foreglow.recognition.network.train import TrainingPlan
    from foreglow.recognition.separate import separate
    from foreglow.recognition.simulate import simulate_sky
    from foreglow.recognition.train import train_context, train_recogniser
    from foreglow.sky.instrument_files import load_instrument
    from foreglow.sky.templates import load_templates
    from foreglow.survey import recognize_survey

_HOMES = {
    "ContextModel": "recognition.context.model:ContextModel",
    "ContextPlan": "recognition.context.train:ContextPlan",
    "DustModel": "dust.model:DustModel",
    "DustPlan": "dust.train:DustPlan",
    "ForeglowError": "errors:ForeglowError",
    "ForegroundModel": "recognition.models:ForegroundModel",
    "Recogniser": "recognition.network.recogniser:Recogniser",
    "TrainingPlan": "recognition.network.train:TrainingPlan",
    "adaptive_patches": "maps.patches:adaptive_patches",
    "classify": "recognition.classify:classify",
    "clustered_patches": "maps.patches:clustered_patches",
    "fit": "recognition.fit_maps:fit",
    "forecast": "recognition.evaluation.forecast:forecast",
    "load_instrument": "sky.instrument_files:load_instrument",
    "load_templates": "sky.templates:load_templates",
    "measure_r": "recognition.evaluation.measure_r:measure_r",
    "open_cube": "hi_cube.cube:open_cube",
    "predict_dust": "dust.predict:predict_dust",
    "prepare_cube": "hi_cube.prepare:prepare",
    "recognize_survey": "survey:recognize_survey",
    "separate": "recognition.separate:separate",
    "simulate_sky": "recognition.simulate:simulate_sky",
    "train_context": "recognition.train:train_context",
    "train_dust": "dust.train:train_dust",
    "train_recogniser": "recognition.train:train_recogniser",
}
__all__ = [
    "ContextModel",
    "ContextPlan",
    "DustModel",
    "DustPlan",
    "ForeglowError",
    "ForegroundModel",
    "Recogniser",
    "TrainingPlan",
    "adaptive_patches",
    "classify",
    "clustered_patches",
    "fit",
    "forecast",
    "load_instrument",
    "load_templates",
    "measure_r",
    "open_cube",
    "predict_dust",
    "prepare_cube",
    "recognize_survey",
    "separate",
    "simulate_sky",
    "train_context",
    "train_dust",
    "train_recogniser",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("foreglow")
    if name not in _HOMES:
        raise AttributeError(f"module 'foreglow' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(f"foreglow.{module}"), attribute)
