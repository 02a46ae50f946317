"""The candidate models of a pixel, and the constants of the law that networks are trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

from foreglow.errors import ForeglowError, ModelError, with_nearest
from foreglow.sky import seds

REFERENCE_NSIDE = 16  # of the pixels in which depths of noise are stated
BETA_MEAN = -3.0
BETA_SCATTER = 0.2
AMPLITUDE_SCATTER = 0.3


@dataclass(frozen=True)
class ForegroundModel:
    """A candidate parametrisation.

    Parameters
    ----------
    curvature : float
        Of the synchrotron, C a unit of natural log.
    ame_fraction : float
        Polarised fraction of the AME.
    beta_d_scatter : float
        Rms over vectors or pixels of the dust's index about 1.54.
    two_temperatures : bool
        Whether the dust is that of `seds.two_temperature_dust`.
    """

    curvature: float = 0.0
    ame_fraction: float = 0.0
    beta_d_scatter: float = 0.0
    two_temperatures: bool = False

    def __post_init__(self):
        if self.beta_d_scatter and self.two_temperatures:
            raise ModelError("expected two temperatures or a varying beta_d, got both.")


# a candidate is one line here: training, test skies, fits, evidence and FITS columns follow
MODELS = {
    "power_law": ForegroundModel(),
    "curved": ForegroundModel(seds.KOGUT_CURVATURE),
    "power_law_ame": ForegroundModel(ame_fraction=seds.AME_POLARISATION_FRACTION),
    "curved_ame": ForegroundModel(seds.KOGUT_CURVATURE, seds.AME_POLARISATION_FRACTION),
    # what MFI2 with WMAP and Planck can tell in the brightest pixels (arXiv:2511.14572)
    "strongly_curved": ForegroundModel(-0.14),
    "varying_beta_d": ForegroundModel(beta_d_scatter=0.05),
    "two_temperatures": ForegroundModel(two_temperatures=True),
}
PROBLEMS = {
    "curvature": ("power_law", "curved"),
    "ame": ("power_law", "power_law_ame"),
    "four": ("power_law", "curved", "power_law_ame", "curved_ame"),
}


def models_of(models: str | Sequence[str]) -> tuple[str, ...]:
    """The candidate models of a problem by its name, or those named: `power_law,two_temperatures`.

    Raises
    ------
    ForeglowError
        If there is no such problem, or a model does not exist or comes alone or twice.
    """
    if isinstance(models, str):
        if models in PROBLEMS:
            return PROBLEMS[models]
        models = [name.strip() for name in models.split(",")]
    names = tuple(models)
    if len(names) < 2 or len(set(names)) < len(names) or not MODELS.keys() >= set(names):
        got = ", ".join(with_nearest(name, MODELS | PROBLEMS) for name in names)
        raise ForeglowError(
            f"expected models {', '.join(PROBLEMS)}, or two or more of the models "
            f"{', '.join(MODELS)}, separated by commas, got {got!r}."
        )
    return names


def dust_tests(models: tuple[str, ...]) -> tuple[str, ...]:
    """In what the dust of some candidates departs from the paper's: `beta`, `two_temperatures`."""
    known = [MODELS[name] for name in models]
    varies = ("beta",) if any(model.beta_d_scatter for model in known) else ()
    return (*varies, "two_temperatures") if any(m.two_temperatures for m in known) else varies
