"""The steps of a survey, in order; what each leaves in the run directory is not done again."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreglow.data.gather import bytes_missing, gather
from foreglow.data.room import validate_room
from foreglow.errors import InstrumentError, RunError
from foreglow.files import write_text
from foreglow.plans import read_plan
from foreglow.recognition.answers import Answer
from foreglow.recognition.fit_maps import FitSetup
from foreglow.recognition.models import definition_of, definitions_of
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.network.train import TrainingPlan
from foreglow.recognition.observation.beams import aim_at
from foreglow.recognition.train import train_context, train_recogniser
from foreglow.report.html import write_report
from foreglow.report.page.skyview import save_view
from foreglow.report.recognition.survey import survey_figures, survey_view
from foreglow.runs import Run
from foreglow.sky.instrument import Instrument
from foreglow.survey.bands import HALVES, Survey, is_of_registry
from foreglow.survey.cost import predict_cost
from foreglow.survey.found import ame_about_dust, classified, fitted, own_instrument
from foreglow.survey.sky import SurveySky, brought, gathered, mask_at
from foreglow.survey.trials import agreement, ame_off_dust, differences, shares
from foreglow.survey.worth import worth

log = logging.getLogger("foreglow")

FITS, NETWORK, NEIGHBOURS = "fits, evidence", "network", "with neighbours"


@dataclass(frozen=True)
class Asked:
    """What was asked for, resolved; fields are those of `recognize_survey`."""

    survey: Survey
    cache: Path
    fwhm_arcmin: float
    nside: int | None
    models: tuple[str, ...]
    mask: str | None
    systematic: float | None
    noise_accuracy: float | None
    bandpass: dict[str, str]
    halves: bool
    network: bool
    context: bool
    plan: Any
    download: bool
    seed: int
    device: str

    @property
    def draws(self) -> int | None:
        """Maps of noise a band, of which the rms is known to the accuracy asked for."""
        accuracy = self.noise_accuracy
        return None if accuracy is None else round(np.ceil(0.5 / accuracy**2))

    @property
    def settings(self) -> dict[str, Any]:
        """What a run that goes on must have alike; TOML has no None."""
        plan = (
            self.plan if isinstance(self.plan, Mapping | str | Path | None) else asdict(self.plan)
        )
        told = {
            "fwhm_arcmin": self.fwhm_arcmin, "nside": self.nside, "models": list(self.models),
            "definitions": definitions_of(self.models), "mask": self.mask,
            "systematic": self.systematic, "noise_accuracy": self.noise_accuracy,
            "bandpass": self.bandpass or None, "halves": self.halves, "network": self.network,
            "context": self.context,
            "plan": str(plan) if plan is not None else None,
            "bands": [band.model_dump(exclude_none=True) for band in self.survey.bands],
        }  # fmt: skip
        return {name: value for name, value in told.items() if value is not None}


@dataclass(frozen=True, eq=False)
class SurveyFound:
    """What a survey says of the models.

    Attributes
    ----------
    folder, report : Path
        The run directory (maps, fits and classification as FITS files) and its report.
    sky : SurveySky
        The maps at one beam, and their noise.
    answers : mapping of str to Answer
        By method: "fits, evidence", "network", "with neighbours".
    records : list of dict
        Those of metrics.json.
    """

    folder: Path
    report: Path
    sky: SurveySky
    answers: Mapping[str, Answer]
    records: list[dict[str, Any]]


def ask(asked: Asked, out: Path) -> None:
    """Say what it will take, and refuse what cannot be had.

    Raises
    ------
    DataError, RunError
        If files are missing and are not to be fetched, or there is no room.
    InstrumentError, MapError
        If the survey has too few bands for the models, or no halves and these are asked for; if
        beam, Nside or mask cannot be used.
    """
    needed, band = FitSetup(asked.models).bands_needed, asked.survey.instrument.band
    if len(band) < needed:
        raise InstrumentError(
            f"expected a survey of {needed} bands at least, to fit {', '.join(asked.models)}, got "
            f"{len(band)} ({', '.join(band)}); join another by a plus sign, or give fewer models=."
        )
    _validate(asked)
    undivided = asked.survey.undivided if asked.halves else []
    if len(undivided) == len(band):
        raise InstrumentError(
            f"expected halves=True of a survey with halves of its data, got {asked.survey.name!r}, "
            "of which none are known; leave it out, or name files of two halves in a survey of "
            "your own (TOML)."
        )
    if undivided:
        log.info("no halves of %s: both halves hold all of their data", ", ".join(undivided))
    files = asked.survey.remote_files(asked.halves)
    cost = predict_cost(
        asked.survey, asked.fwhm_arcmin, asked.nside, asked.halves, asked.network, asked.context,
        bytes_missing(files, asked.cache), asked.draws or 0,
    )  # fmt: skip
    for line in cost.lines():
        log.info("%s", line)
    if not asked.download:
        gather(files, asked.cache, download=False)  # says what is missing
    validate_room(((asked.cache, cost.download), (out, cost.run)))


def _validate(asked: Asked) -> None:
    """Refuse now what would be refused when gigabytes are fetched; one's own files are read then.

    Raises
    ------
    MapError, RunError
    """
    if asked.systematic is not None and not 0 <= asked.systematic < 1:
        raise RunError(
            "expected systematic= from 0 to less than 1, a share of the polarised brightness (0.01 "
            f"for a hundredth), got {asked.systematic:g}."
        )
    survey = asked.survey
    public = {band.name for band in survey.bands if all(map(is_of_registry, band.files))}
    nsides = [file.product.nside for file in survey.remote_files() if file.product.nside]
    if public and nsides:
        each = zip(survey.instrument.band, survey.instrument.fwhm_arcmin, strict=True)
        beams = {name: fwhm for name, fwhm in each if name in public}
        aim = aim_at(asked.fwhm_arcmin, asked.nside, beams, min(nsides))
        if len(public) == len(survey.bands):
            mask_at(asked.mask, aim.nside)


def recognized(asked: Asked, run: Run) -> SurveyFound:
    """Do all steps in a run directory, and write its report."""
    with run.stage("files of the survey"):
        gathered(asked.survey, asked.cache, asked.download, asked.halves)
    steps = _Steps(asked, run)
    answers = {FITS: steps.fits(steps.sky, "fits.fits")}
    if asked.network:
        answers |= steps.networks()
    run.records += steps.bands()
    for method, answer in answers.items():
        run.records += shares(method, answer)
    run.records += steps.worth()
    run.records += steps.ame(answers[FITS])
    run.records += steps.without_each_band(answers[FITS])
    if asked.halves:
        run.records += steps.halves()
    with run.stage("report"):
        first = next(reversed(answers.values()))
        note = steps.note
        captions = survey_figures(run.figures, answers, note)
        write_text(run.figures / "captions.json", json.dumps(captions, indent=1))
        data, sigma = steps.values
        if steps.mask is not None:
            data = np.where(steps.mask[:, None, None], data, np.nan)
        save_view(
            survey_view(steps.sky.instrument, data, sigma, first.models, answers, note),
            run.folder / "maps",
        )
        run.save_metrics()
    report = write_report(run.folder)
    return SurveyFound(run.folder, report, steps.sky, answers, run.records)


@dataclass(frozen=True, eq=False)
class _Steps:
    """A run, and what its steps share."""

    asked: Asked
    run: Run

    @cached_property
    def sky(self) -> SurveySky:
        """All of the data at one beam."""
        return self._brought("sky", None)

    @cached_property
    def values(self) -> tuple[NDArray, NDArray]:
        """Q, U (n_pix, 2, n_band) and rms (n_pix, n_band) [uK_RJ], read once."""
        return self.sky.read()[:2]

    @cached_property
    def mask(self) -> NDArray[np.bool_] | None:
        """Pixels that count."""
        return mask_at(self.asked.mask, self.sky.opened().nside)

    @property
    def note(self) -> str:
        """What the maps are, in a sentence."""
        bands, draws = ", ".join(self.sky.instrument.band), self.asked.draws
        white = "propagated by a formula"
        if draws is not None:
            accuracy = f"{self.asked.noise_accuracy:.2g}"
            white = f"of {draws} maps of it a band, which give the rms of a pixel to {accuracy}"
        return (
            f"{bands} at {self.asked.fwhm_arcmin:g} arcmin, Nside {self.sky.opened().nside}; the "
            f"white noise {white}, and with it what each band has beside. {self._spectra}"
        )

    @property
    def _spectra(self) -> str:
        """Where spectra are taken, in a sentence."""
        if not self.asked.bandpass:
            return "Spectra are taken at the effective frequencies of the bands."
        given = ", ".join(self.asked.bandpass)
        return f"Spectra are taken over the measured bandpasses of {given}."

    def fits(self, sky: SurveySky, file: str) -> Answer:
        """What the fits say of a sky."""
        with self.run.stage(f"fits: {file.removesuffix('.fits')}"):
            path = self.run.folder / file
            return fitted(sky, self.asked.models, self.mask, self.asked.device, path)

    def networks(self) -> dict[str, Answer]:
        """A network trained for this instrument, and what it says; a context likewise."""
        if not self._complete.any():
            log.info("no pixel is observed in every band, as a network needs: none is trained")
            return {}
        asked, folder = self.asked, self.run.folder
        model, context = self.run.models, folder / "context"
        with self.run.stage("training"):
            if not model.is_dir():
                instrument, plan = self._own
                train_recogniser(
                    instrument, asked.models, plan=plan, out=model, seed=asked.seed,
                    device=asked.device, resume=True,
                )  # fmt: skip
            if asked.context and not context.is_dir():
                train_context(model, out=context, seed=asked.seed, device=asked.device, resume=True)
        found = {}
        with self.run.stage("classification"):
            for method, neighbours in ((NETWORK, None), (NEIGHBOURS, context)):
                if neighbours is None or asked.context:
                    path = folder / f"{method.replace(' ', '_')}.fits"
                    found[method] = classified(
                        self.sky, asked.models, model, neighbours, self.mask, asked.device, path
                    )
        return found

    def worth(self) -> list[dict[str, Any]]:
        """How often network and fits are right where the truth is known: records."""
        rows = self.values[1][self._complete]
        if not len(rows):
            return []
        asked, model = self.asked, self.run.models
        with self.run.stage("simulated pixels of the same noise"):
            network = Recogniser.load(model) if asked.network else None
            return worth(
                self.sky.instrument, asked.models, rows, asked.seed, network, (NETWORK, FITS),
                self._own[1].ame_scatter,
            )  # fmt: skip

    def ame(self, answer: Answer) -> list[dict[str, Any]]:
        """Whether the AME lies about the dust as the training law has it: a record, if any."""
        with self.run.stage("AME and dust"):
            return ame_off_dust(self.sky, answer, self._complete, self._own[1].ame_scatter)

    def bands(self) -> list[dict[str, Any]]:
        """What the bands are: a record each."""
        data, sigma = self.values
        seen = np.isfinite(data).all(1) & np.isfinite(sigma)
        seen &= True if self.mask is None else self.mask[:, None]
        bands = self.sky.instrument
        given = self.asked.systematic
        return [
            {
                "step": "bands", "band": band.name, "files": ", ".join(band.files),
                "frequency_ghz": bands.frequency_ghz[k],
                "noise_uk_cmb": _median(sigma[seen[:, k], k]) / bands.uk_rj_per_uk_cmb[k],
                "amplitude_uk_cmb": _median(np.hypot(*data[seen[:, k], :, k].T))
                / bands.uk_rj_per_uk_cmb[k],
                "systematic": band.systematic if given is None else given,
                "observed": float(seen[:, k].mean()),
            }
            for k, band in enumerate(self.asked.survey.bands)
        ]  # fmt: skip

    def without_each_band(self, whole: Answer) -> list[dict[str, Any]]:
        """How the fits' answer changes when a band is left out: a record each."""
        needed = FitSetup(self.asked.models).bands_needed
        if self.sky.instrument.n_band <= needed:
            log.info("no band can be left out: the models need %d", needed)
            return []
        return [
            {"step": "without", "band": band, **agreement(whole, answer)}
            for band in self.sky.instrument.band
            for answer in [self.fits(self.sky.without(band), f"without_{band}.fits")]
        ]

    def halves(self) -> list[dict[str, Any]]:
        """Null tests: halves of the data through the same steps."""
        one, other = (self._brought(f"half_{half + 1}", half) for half in HALVES)
        with self.run.stage("differences of the halves"):
            records = differences((one, other), self.mask)
        answers = [self.fits(sky, f"half_{k + 1}.fits") for k, sky in enumerate((one, other))]
        both = {"undivided": ", ".join(self.asked.survey.undivided), **agreement(*answers)}
        return [*records, {"step": "halves", "band": "all", **both}]

    @cached_property
    def _own(self) -> tuple[Instrument, TrainingPlan]:
        """The instrument and the plan of this survey's network."""
        asked, scatter = self.asked, 0.0
        if any(definition_of(name).ame_fraction for name in asked.models):
            scatter = ame_about_dust(asked.fwhm_arcmin, self.sky.opened().nside)
        own = own_instrument(self.sky.instrument, self.values[1], self.mask, scatter)
        return own[0], read_plan(asked.plan, own[1])

    @cached_property
    def _complete(self) -> NDArray[np.bool_]:
        """Pixels that are observed in every band, and count."""
        data, sigma = self.values
        seen = np.asarray(np.isfinite(data).all((1, 2)) & np.isfinite(sigma).all(1))
        return seen if self.mask is None else seen & self.mask

    def _brought(self, name: str, half: int | None) -> SurveySky:
        asked = self.asked
        with self.run.stage(f"one beam: {name}"):
            return brought(
                asked.survey, asked.cache, self.run.folder / name, asked.fwhm_arcmin, asked.nside,
                half, asked.systematic, asked.draws, asked.seed,
            )  # fmt: skip


def _median(values: NDArray) -> float:
    return float(np.median(values)) if values.size else float("nan")
