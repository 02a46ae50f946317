"""Maps of several surveys in the form of their archives, of one mock sky: the truth is known.

What the archives have at Nside 512, 1024 and 2048 is here at 32. Sources of the forms: `sources`
and `unverified` of registry.toml.
"""

from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import healpy as hp
import numpy as np
from astropy.io import fits

from foreglow.data import registry
from foreglow.maps.regions import layout
from foreglow.recognition.context import train as context_training
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.simulation.law import SkyLaw
from foreglow.recognition.simulation.skies import draw_sky
from foreglow.sky.instrument import Instrument
from foreglow.sky.templates import load_templates
from foreglow.survey import steps
from foreglow.survey.bands import Survey, load_survey

NSIDE = 32
N_PIX = hp.nside2npix(NSIDE)
BLIND = (17, 4000)  # RING, not observed by any
HITS = {"K": 1.435, "Ka": 1.472, "Q": 2.197, "V": 3.141, "W": 6.560}  # mK of one observation
MODELS = PROBLEMS["four"]


@dataclass(frozen=True, eq=False)
class Skies:
    """What the surveys see: Q, U of each band [uK_RJ], RING, without noise, and the truth."""

    survey: Survey
    data: dict[str, np.ndarray]
    truth: np.ndarray

    @property
    def instrument(self) -> Instrument:
        return self.survey.instrument


@cache
def skies(name="wmap+planck+quijote", models=MODELS, seed=0) -> Skies:
    """The mock Galaxy in all bands; each model holds in a region of its own."""
    survey = load_survey(name)
    label = layout("quadrants" if len(models) == 4 else "halves", NSIDE, len(models), seed)
    rng = np.random.default_rng(seed)
    law = SkyLaw(beta_scatter=0.05, beta_smoothing_deg=20.0)
    drawn = draw_sky(load_templates("mock", NSIDE), survey.instrument, models, label, 0.0, rng, law)
    bands = zip(survey.instrument.band, drawn.bands(), strict=True)
    return Skies(survey, {band: qu.astype(float) for band, qu in bands}, label)


def observed(sky: Skies, band: str, noise_scale: float, seed: int, unit: float):
    """Q, U of a band with noise, and QQ, QU, UU of it, in units of `unit` uK_CMB."""
    k = sky.instrument.band.index(band)
    rng = np.random.default_rng([seed, k])
    sigma = noise_scale * sky.instrument.noise_rms(NSIDE)[k]
    # deeper at the ecliptic poles; Q and U not alike, and correlated by a tenth
    uneven = np.exp(-0.3 * (1.5 * hp.pix2vec(NSIDE, np.arange(N_PIX))[2] ** 2 - 0.5))
    qq, uu = (sigma * uneven) ** 2, (1.1 * sigma * uneven) ** 2
    qu = 0.1 * np.sqrt(qq * uu)
    white = rng.standard_normal((2, N_PIX))
    noise = np.stack(
        [np.sqrt(qq) * white[0], np.sqrt(uu) * (0.1 * white[0] + np.sqrt(0.99) * white[1])]
    )
    factor = 1 / (sky.instrument.uk_rj_per_uk_cmb[k] * unit)
    return factor * (sky.data[band] + noise), factor**2 * np.stack([qq, qu, uu])


def table(columns, ordering, **cards):
    """A HEALPix table, a pixel a row; columns: (name, TFORM, TUNIT, RING values)."""
    order = hp.nest2ring(NSIDE, np.arange(N_PIX)) if ordering == "NESTED" else np.arange(N_PIX)
    hdu = fits.BinTableHDU.from_columns(
        [
            fits.Column(name=name, format=form, unit=unit, array=np.asarray(values)[order])
            for name, form, unit, values in columns
        ]
    )
    usual = {
        "PIXTYPE": "HEALPIX", "ORDERING": ordering, "NSIDE": NSIDE, "FIRSTPIX": 0,
        "LASTPIX": N_PIX - 1,
    }  # fmt: skip
    hdu.header.update({k: v for k, v in (usual | cards).items() if v is not None})
    return hdu


def content(*tables):
    """The bytes of a file."""
    from io import BytesIO

    stream = BytesIO()
    fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(stream)
    return stream.getvalue()


def unseen(values, bad=hp.UNSEEN, where=BLIND):
    """A copy that some pixels have no value in."""
    values = np.array(values, float)
    values[list(where)] = bad
    return values


def wmap(sky, band, noise_scale=1e-2, seed=0):
    """mK, NESTED, no COORDSYS nor POLCCONV; weights in a second table, of an inverse covariance."""
    sigma0 = HITS[band.removeprefix("WMAP_")]
    (q, u), (qq, qu, uu) = observed(sky, band, noise_scale, seed, 1e3)
    weights = sigma0**2 * np.stack([uu, -qu, qq]) / (qq * uu - qu**2)
    stokes = [
        ("TEMPERATURE", "E", "mK", np.zeros(N_PIX)),
        ("Q_POLARISATION", "E", "mK,thermodynamic", q),
        ("U_POLARISATION", "E", "mK,thermodynamic", u),
        ("N_OBS", "E", "counts", weights[0]),
    ]
    names = ("N_OBS", "QQ", "QU", "UU")
    second = [
        (name, "E", "counts", row) for name, row in zip(names, (weights[0], *weights), strict=True)
    ]
    return content(
        table(stokes, "NESTED", EXTNAME="Stokes Maps"),
        table(second, "NESTED", EXTNAME="Weight Arrays"),
    )


def planck(sky, band, noise_scale=1e-2, seed=0, **changes):
    """K_CMB, NESTED, Galactic, BAD_DATA, covariances of I, Q and U."""
    (q, u), (qq, qu, uu) = observed(sky, band, noise_scale, seed, 1e6)
    none = np.zeros(N_PIX)
    rows = [
        ("I_STOKES", "E", "K_CMB", none), ("Q_STOKES", "E", "K_CMB", unseen(q)),
        ("U_STOKES", "E", "K_CMB", unseen(u)), ("HITS", "J", None, np.full(N_PIX, 100)),
        ("II_COV", "E", "K_CMB^2", qq), ("IQ_COV", "E", "K_CMB^2", none),
        ("IU_COV", "E", "K_CMB^2", none), ("QQ_COV", "E", "K_CMB^2", unseen(qq)),
        ("QU_COV", "E", "K_CMB^2", unseen(qu)), ("UU_COV", "E", "K_CMB^2", unseen(uu)),
    ]  # fmt: skip
    cards = {"COORDSYS": "GALACTIC", "POLCCONV": "COSMO", "BAD_DATA": hp.UNSEEN, "POLAR": True}
    return content(table(rows, "NESTED", EXTNAME="FREQ-MAP", **(cards | changes)))


def quijote(sky, band, noise_scale=1e-2, seed=0):
    """mK_CMB, RING, weights, the northern sky: elsewhere nothing was observed."""
    (q, u), (qq, qu, uu) = observed(sky, band, noise_scale, seed, 1e3)
    dec = hp.Rotator(coord="GC")(*hp.pix2ang(NSIDE, np.arange(N_PIX)))[0]
    where = np.flatnonzero(dec > np.radians(100))
    hits = unseen(np.ones(N_PIX), 0.0, where)
    columns = [
        (f"{letter}_STOKES", "E", "mK_CMB", unseen(values, where=where))
        for letter, values in zip("IQU", (np.zeros(N_PIX), q, u), strict=True)
    ]
    columns += [(name, "E", "none", hits) for name in ("NHITS_I", "NHITS_QU")]
    columns += [
        (f"WEI_{letter}", "E", "(mK_CMB)^(-2)", unseen(1 / row, 0.0, where))
        for letter, row in zip("IQU", (qq, qq, uu), strict=True)
    ]
    columns.append(("COV_QU", "E", "(mK_CMB)^2", unseen(qu, 0.0, where)))
    return content(table(columns, "RING", COORDSYS="G", BAD_DATA=hp.UNSEEN, OBJECT="FULLSKY"))


def spass(sky, noise_scale=1e-2, seed=0):
    """K, RING, IAU, one column without a name each: Q, U and their noise."""
    (q, u), (qq, _, _) = observed(sky, "S-PASS", noise_scale, seed, 1e6)
    factor = sky.instrument.uk_rj_per_uk_cmb[sky.instrument.band.index("S-PASS")]
    cards = {"COORDSYS": "G", "POLCCONV": "IAU", "BAD_DATA": hp.UNSEEN, "INDXSCHM": "IMPLICIT"}
    return [
        content(table([("UNKNOWN1", "E", "K", values)], "RING", **cards))
        for values in (unseen(factor * q), unseen(-factor * u), factor * np.sqrt(qq))
    ]


def files(sky, noise_scale=1e-2, halves=False) -> dict[str, bytes]:
    """All files of a survey, by their names; halves have twice the variance."""
    found = {}
    for band in sky.survey.bands:
        make = next(
            make
            for start, make in (("WMAP", wmap), ("Planck", planck), ("MFI", quijote), ("S-", spass))
            if band.name.startswith(start)
        )
        if make is spass:
            made = spass(sky, noise_scale)
            found |= {Path(f).name: one for f, one in zip(band.files, made, strict=True)}
            continue
        found[Path(band.files[0]).name] = make(sky, band.name, noise_scale)
        if halves and band.halves:
            for half, (file,) in enumerate(band.halves):
                scale = np.sqrt(2) * noise_scale
                found[Path(file).name] = make(sky, band.name, scale, seed=1 + half)
    return found


def fill_cache(folder: Path, made: dict[str, bytes]) -> None:
    """Put files where the registry looks for them."""
    for product in registry.load_registry():
        for name in product.files:
            if name in made:
                (folder / product.folder).mkdir(parents=True, exist_ok=True)
                (folder / product.folder / name).write_bytes(made[name])


def here(url, made):
    """The registry, its products at an address and as large as these files."""

    def moved(product):
        sizes = [len(made[name]) for name in product.files if name in made]
        return replace(
            product, base=url, bytes=min(sizes, default=product.bytes),
            nside=NSIDE if sizes else product.nside, bytes_exact=False, md5=None, md5_source=None,
        )  # fmt: skip

    return tuple(map(moved, registry.load_registry()))


def fill_tutorial(folder: Path | str) -> np.ndarray:
    """What a reader of the tutorial has fetched; the true models, RING, Nside 32."""
    sky = skies("wmap+planck", PROBLEMS["curvature"])
    fill_cache(Path(folder), files(sky, 3e-3, halves=True))
    return sky.truth


def little_training(patch):
    """Of a context, and little to judge it by."""
    plan = {"epochs": 1, "steps": 2, "batch": 2}
    patch.setattr(steps, "train_context", partial(steps.train_context, plan=plan))
    few = partial(context_training.pixel_ensemble, realisations=3)
    patch.setattr(context_training, "pixel_ensemble", few)
    patch.setattr(context_training, "_VALIDATION_STEPS", 1)
    patch.setattr(context_training, "_TEMPERATURE_BATCHES", 1)
