"""Figure 1: what the sky holds, and what of the dust no gas can tell."""

import numpy as np
import torch
from numpy.typing import NDArray

from foreglow.dust.inputs import DustSky, paper_filter
from foreglow.dust.sky_cube import SkyCube
from foreglow.dust.target import NO_UNIT
from foreglow.maps import healpix as hp
from foreglow.report.dust import curves as dust_curves
from foreglow.report.recognition import skymaps
from foreglow.reproduce.zhang2019.experiment import Captions, Experiment, log
from foreglow.reproduce.zhang2019.paper import HIGH_KMS, LOW_KMS
from foreglow.sky.gas import MockGas, unpredictable_share
from foreglow.sky.hydrogen import CHANNEL_KMS, COLUMN_PER_K_KMS

_SECTION = "The sky"
PROFILE_KMS = 120.0
ELL_EDGES = ((20, 50), (50, 100), (100, 200))


def what_the_sky_holds(experiment: Experiment) -> Captions:
    """Figure 1, maps of gas and dust; of the mock also the ceiling that its other dust sets."""
    captions = _profile(experiment) | _maps(experiment)
    if experiment.source.gas is None:
        log.info("a real sky: what of its dust is unpredictable is not known")
        return captions
    with experiment.run.stage("what cannot be predicted"):
        _unpredictable(experiment, experiment.source.gas)
        _ceiling(experiment, experiment.source.gas)
    return captions


def ring_map(experiment: Experiment, nested: torch.Tensor) -> NDArray[np.float32]:
    """A map of the experiment's sky, RING, NaN where masked; from values (n_pix,) NESTED."""
    seen = experiment.sky.cube.target[:, 1] > 0
    values = torch.where(seen, nested, torch.nan).cpu().numpy()
    return values[hp.ring2nest(experiment.sky.nside, np.arange(values.size))]


def _profile(experiment: Experiment) -> Captions:
    number = experiment.settings["profile_pointings"]
    with experiment.run.stage("brightness by velocity"):
        rng = np.random.default_rng([experiment.seed, 1])
        seen = np.flatnonzero(np.isfinite(ring_map(experiment, experiment.sky.cube.target[:, 0])))
        pixel = rng.choice(seen, number)
        velocity, channels = experiment.source.channels(-PROFILE_KMS, PROFILE_KMS)
        total = np.array([values[pixel].sum(dtype=np.float64) for values in channels])
    return experiment.draw(
        dust_curves.velocity_profile(velocity, total, (LOW_KMS, HIGH_KMS), number),
        "velocity_profile",
        _SECTION,
        "Figure 1: the 21 cm line by velocity",
        f"Sum over {number:,} random pointings outside the mask. Dotted: the range of the 64 "
        "channels that the models see.",
    )


def _maps(experiment: Experiment) -> Captions:
    column = (
        COLUMN_PER_K_KMS * CHANNEL_KMS * ring_map(experiment, experiment.sky.cube.inputs.sum(1))
    )
    dust = ring_map(experiment, experiment.sky.cube.target[:, 0])
    share = np.isfinite(dust).mean()
    kept = f"{LOW_KMS:g} to {HIGH_KMS:g} km/s".replace("-", "−")
    return experiment.draw(
        skymaps.sky_map(
            column, "Hydrogen, integrated", "$10^{20}$ cm$^{-2}$ (optically thin)", "log"
        ),
        "hydrogen",
        _SECTION,
        "Integrated 21 cm emission",
        f"Sum over the channels from {kept} as a column density of optically thin gas; "
        f"low-passed at ell 460, Nside {experiment.sky.nside}. Grey: the mask, which "
        f"leaves {share:.0%} of the sky.",
    ) | experiment.draw(
        skymaps.sky_map(dust, "Dust, the target", unit_text(experiment), "log"),
        "dust",
        _SECTION,
        "The dust to predict",
        f"Source: {_source_text(experiment)}. The same filter and mask.",
    )


def unit_text(experiment: Experiment) -> str:
    """The unit of the dust for figures; at what frequency a user's is, no file says."""
    unit = experiment.sky.target_unit
    text = {"uK_RJ": r"µK$_\mathrm{RJ}$", NO_UNIT: "no unit"}.get(unit, unit)
    return f"{text} at 353 GHz" if experiment.source.gas else text


def _source_text(experiment: Experiment) -> str:
    return "the mock Galaxy at 353 GHz" if experiment.source.gas else experiment.sky.source


def _unpredictable(experiment: Experiment, gas: MockGas) -> None:
    shares = unpredictable_share(gas.dust, ELL_EDGES)
    for k, (low, high) in enumerate(ELL_EDGES):
        values = {name: float(share[k]) for name, share in shares.items()}
        experiment.run.records.append(
            {"step": "unpredictable", "ell_low": low, "ell_high": high, **values}
        )
        log.info(
            "ell %d to %d: %.1f%% of the dust's variance cannot be predicted from gas", low, high,
            100 * values["unpredictable"],
        )  # fmt: skip


def _ceiling(experiment: Experiment, gas: MockGas) -> None:
    """Perfect knowledge of the gas of every layer, molecules too, on the same test cutouts."""
    nside, target = experiment.sky.nside, experiment.sky.cube.target
    known = paper_filter(nside).full_sky(gas.dust.predictable)
    nested = torch.from_numpy(known[hp.nest2ring(nside, np.arange(known.size))]).to(target.device)
    cube = SkyCube((nested * target[:, 1]).unsqueeze(1), target)
    sky = DustSky(cube, np.zeros(1), experiment.sky.target_unit, "mock")
    scores = experiment.score({"perfect_gas": lambda c: c.inputs[:, 0]}, "north_south", "test", sky)
    experiment.record(scores["perfect_gas"], "ceiling")
