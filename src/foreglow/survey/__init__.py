"""Which models hold on the real sky: public maps of several surveys, by one command.

`bands` says which files of which products are a survey, `sky` gathers, checks and brings them to
one beam and Nside, `found` fits and classifies, `trials` asks whether to believe it, `steps` puts
these in order and in a run directory.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from astropy import units as u

from foreglow.compute.device import pick_device
from foreglow.data.cache import cache_folder
from foreglow.errors import RunError
from foreglow.extras import require
from foreglow.recognition.models import models_of
from foreglow.recognition.observation.beams import as_arcmin
from foreglow.runs import open_run
from foreglow.survey.bands import load_survey, with_bandpasses

require("train", "report")  # before its steps import what they need

from foreglow.survey.steps import Asked, SurveyFound, ask, recognized  # noqa: E402

__all__ = ["SurveyFound", "recognize_survey"]

_ROUGHEST = 0.25  # accuracy of a noise: the mean of less than ten maps is none


def recognize_survey(
    survey: str = "wmap+planck",
    *,
    out: str | Path,
    common_fwhm: str | u.Quantity = "60 arcmin",
    nside: int | None = None,
    models: str | Path | Sequence[str] | Mapping[str, Any] = "four",
    mask: str | Path | None = None,
    systematic: float | None = None,
    noise_accuracy: float | None = None,
    bandpass: Mapping[str, str] | None = None,
    halves: bool = False,
    network: bool = True,
    context: bool = False,
    plan: Any = None,
    download: bool = False,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
) -> SurveyFound:
    """Recognise the models in public maps: fetch, check, smooth, fit, train, classify, report.

    Parameters
    ----------
    survey : str
        `wmap`, `planck`, `npipe`, `quijote`, `s-pass`, or TOML files of one's own (see
        `foreglow.survey.bands`), joined by plus signs.
    out : path
        Run directory.
    common_fwhm : str or Quantity
        Gaussian beam to which all maps are brought.
    nside : int, optional
        Of the result; by default the finest whose pixels are at least half a beam wide.
    models : str, path, sequence of str or mapping
        As `foreglow.fit` takes them.
    mask : path, optional
        Galactic, of that Nside or a finer one: `FILE[COLUMN]`; a pixel counts if half of it is
        above zero.
    systematic : float, optional
        Error of every band beside its white noise, over the polarised brightness; by default that
        of each band of the survey.
    noise_accuracy : float, optional
        Draw maps of the noise and bring them to the beam as the data are, as many as give the rms
        in each pixel to this accuracy, such as 0.05; by default it is propagated by a formula.
    bandpass : mapping of str to str, optional
        Files of measured bandpasses by band, such as
        `{"Planck_353": "HFI_RIMO_R3.00.fits[BANDPASS_F353] as power"}`, as
        `foreglow.sky.bandpass_files.read_bandpass` takes them; other bands are taken at their
        effective frequency.
    halves : bool
        Do the same with halves of the data, where a survey has them: null tests.
    network : bool
        Train a network for this very instrument and noise, and classify by it.
    context : bool
        Train a context, too, by which the neighbours of a pixel have their say.
    plan : TrainingPlan, mapping of its fields or path of a TOML file, optional
        Of the network; what it leaves out, the range of the noise above all, is as the maps have
        it.
    download : bool
        Fetch what is missing.
    seed : int
        Of the training.
    device : str
    resume : bool
        Go on with an interrupted run.

    Returns
    -------
    SurveyFound

    Raises
    ------
    InstrumentError, DataError, MapError, RunError, ForeglowError
        If a survey is none, files are missing or are not what they should be, a map cannot be
        used, `out` holds another run, or there is no room.
    """
    if context and not network:
        raise RunError("expected context=True with a network, got network=False; leave one out.")
    if noise_accuracy is not None and not 0 < noise_accuracy <= _ROUGHEST:
        raise RunError(
            f"expected noise_accuracy= above 0 and up to {_ROUGHEST:g}, got {noise_accuracy:g}; "
            "0.05 takes 200 maps of noise a band."
        )
    wanted = with_bandpasses(load_survey(survey), bandpass) if bandpass else load_survey(survey)
    asked = Asked(
        wanted, cache_folder(), as_arcmin(common_fwhm), nside, models_of(models),
        None if mask is None else str(mask), systematic, noise_accuracy, dict(bandpass or {}),
        halves, network, context, plan, download, seed, str(pick_device(device)),
    )  # fmt: skip
    ask(asked, Path(out))
    config = {
        "experiment": "survey", "scale": "", "sky": survey, "seed": seed, "device": asked.device,
        "settings": asked.settings,
    }  # fmt: skip
    with open_run(Path(out), config, resume) as run:
        return recognized(asked, run)
