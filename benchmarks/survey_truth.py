"""What a survey's network and fits say where the truth is known, and why they are wrong.

`python benchmarks/survey_truth.py FOLDER [SCATTER]` makes small files of the forms of WMAP, Planck
and QUIJOTE, brings them to 480 arcmin at Nside 8, and asks a network of the sky as it is, with the
AME of each pixel turned along its dust, with power law + AME everywhere, and with both; of the sky
as it is, with the neighbours' word, too, and the fits. What a survey's table says of their worth
comes last. Network and context are trained into FOLDER unless they are there (nine minutes of a
core); SCATTER is that of the AME about the dust in their training, 0 by default as in the paper,
0.3 as the survey has it.
"""

import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import healpy as hp
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import survey_forms as forms
from foreglow.recognition.context.model import ContextModel
from foreglow.recognition.fits.choice import choose
from foreglow.recognition.network.calibration import expected_calibration_error
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.simulation.law import SkyLaw
from foreglow.recognition.simulation.skies import ame_polarisation, draw_sky
from foreglow.recognition.train import train_context, train_recogniser
from foreglow.sky import seds
from foreglow.sky.templates import load_templates
from foreglow.survey.found import own_instrument
from foreglow.survey.sky import brought
from foreglow.survey.worth import worth

FWHM, NSIDE, NOISE, AME = 480.0, 8, 3e-3, 2  # AME: place of power law + AME
PARTS = ("Planck_217", "Planck_353")  # bands that AME and dust take the place of


def at_the_beam(sky, noise=NOISE):
    """Q, U (n_pix, 2, n_band) and rms of files of a sky, brought to the beam."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "data"
        forms.fill_cache(cache, forms.files(sky, noise))
        return brought(sky.survey, cache, Path(folder) / "sky", FWHM, NSIDE).read()[:2]


def everywhere(sky, model):
    """The same sky with one model in all pixels."""
    label = np.full_like(sky.truth, model)
    law = SkyLaw(beta_scatter=0.05, beta_smoothing_deg=20.0)
    templates = load_templates("mock", forms.NSIDE)
    rng = np.random.default_rng(0)
    drawn = draw_sky(templates, sky.instrument, forms.MODELS, label, 0.0, rng, law)
    bands = zip(sky.instrument.band, drawn.bands(), strict=True)
    return replace(sky, data={band: qu.astype(float) for band, qu in bands}, truth=label)


def turning(sky):
    """What turns the AME of a pixel along its dust, at the beam: (n_pix, 2, n_band)."""
    templates = load_templates("mock", forms.NSIDE)
    ame = seds.AME_POLARISATION_FRACTION * ame_polarisation(templates.dust, templates.ame)
    nothing = {band: np.zeros((2, forms.N_PIX)) for band in sky.data}
    parts = dict(zip(PARTS, (ame.astype(float), templates.dust.astype(float)), strict=True))
    data = at_the_beam(replace(sky, data=nothing | parts), 1e-12)[0].astype(float)
    ame, dust = (data[:, :, sky.instrument.index(band)] for band in PARTS)
    along = np.linalg.norm(ame, axis=1)[:, None] * dust / np.linalg.norm(dust, axis=1)[:, None]
    nu = torch.tensor(sky.instrument.frequency_ghz, dtype=torch.float64)
    return (along - ame)[:, :, None] * seds.spinning_dust(nu).numpy()


def show(title, chance, true, which):
    """How often probabilities (n_pix, n_class) are right, sure, and right where sure."""
    chance, true = chance[which], true[which]
    right, sure = chance.argmax(1) == true, chance.max(1) > 0.9
    print(
        f"{title:52} {len(true):4} pixels, right {right.mean():.1%}, sure {sure.mean():.1%}, "
        f"right where sure {right[sure].mean():.1%} of {sure.sum()}, "
        f"calibration error {expected_calibration_error(chance.T, true):.3f}", flush=True,
    )  # fmt: skip


def main(folder, scatter=0.0):
    """Train if need be, and ask."""
    sky = forms.skies()
    data, sigma = at_the_beam(sky)
    alone, beside = folder / "network", folder / "context"
    if not alone.is_dir():
        instrument, plan = own_instrument(sky.instrument, sigma, None, scatter)
        train_recogniser(instrument, forms.MODELS, plan=plan, out=alone, seed=0, device="cpu")
    if not beside.is_dir():
        train_context(alone, out=beside, seed=0, device="cpu")
    network, context = Recogniser.load(alone), ContextModel.load(beside)

    @torch.no_grad()
    def said(maps):
        given = (torch.from_numpy(v).float() for v in (maps, sigma))
        return network.log_probability(*given).exp().numpy()

    share = np.stack([hp.ud_grade((sky.truth == k).astype(float), NSIDE) for k in range(4)])
    true = share.argmax(0)
    complete = np.isfinite(data).all((1, 2))
    pure = (share.max(0) == 1) & complete
    mine = pure & (true == AME)
    chance = said(data)
    fitted = choose(forms.MODELS, sky.instrument.bands, *map(torch.from_numpy, (data, sigma)))
    fits = fitted.probability().numpy()
    any_bands = (share.max(0) == 1) & np.isfinite(fits).all(1)
    refined = context.refine(np.where(complete, chance.T, np.nan)).T
    for title, which in (("all models", pure), ("power law + AME", mine)):
        show(title, chance, true, which)
        show("  with the neighbours' word", refined, true, which)
        show("  the fits", fits, true, which)
    show("the fits, wherever bands suffice", fits, true, any_bands)
    show("  power law + AME", fits, true, any_bands & (true == AME))
    turned, only = turning(sky), at_the_beam(everywhere(sky, AME))[0]
    for title, maps in (
        ("  AME turned along the dust", data + turned),
        ("  this model everywhere", only),
        ("  both", only + turned),
    ):
        show(title, said(maps), true, mine)
    for row in worth(
        sky.instrument, forms.MODELS, sigma[complete], 0, network, ame_scatter=scatter
    ):
        if row["model"] == "all":
            print("the survey's table:", {k: v for k, v in row.items() if k != "step"}, flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]), *map(float, sys.argv[2:]))
