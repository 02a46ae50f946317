"""Figure 1: what the sky holds, and what of the dust no gas can tell."""

import numpy as np
import torch
from numpy.typing import NDArray

from foreglow.dust.cutouts import SkyCube
from foreglow.dust.inputs import DustSky, paper_filter
from foreglow.dust.target import NO_UNIT
from foreglow.maps import healpix as hp
from foreglow.report.dust import curves as dust_curves
from foreglow.report.recognition import skymaps
from foreglow.reproduce.zhang2019.lab import Captions, Lab, log
from foreglow.reproduce.zhang2019.paper import HIGH_KMS, LOW_KMS
from foreglow.sky.gas import MockGas, unpredictable_share
from foreglow.sky.hydrogen import CHANNEL_KMS, COLUMN_PER_K_KMS

_SECTION = "The sky"
PROFILE_KMS = 120.0
ELL_EDGES = ((20, 50), (50, 100), (100, 200))


def what_the_sky_holds(lab: Lab) -> Captions:
    """Figure 1, maps of gas and dust; of the mock also the ceiling that its other dust sets."""
    captions = _profile(lab) | _maps(lab)
    if lab.source.gas is None:
        log.info("a real sky: what of its dust is unpredictable is not known")
        return captions
    with lab.run.stage("what cannot be predicted"):
        _unpredictable(lab, lab.source.gas)
        _ceiling(lab, lab.source.gas)
    return captions


def ring_map(lab: Lab, nested: torch.Tensor) -> NDArray[np.float32]:
    """A map of the lab's sky, RING, NaN where masked; from values (n_pix,) NESTED."""
    seen = lab.sky.cube.target[:, 1] > 0
    values = torch.where(seen, nested, torch.nan).cpu().numpy()
    return values[hp.ring2nest(lab.sky.nside, np.arange(values.size))]


def _profile(lab: Lab) -> Captions:
    number = lab.settings["profile_pointings"]
    with lab.run.stage("brightness by velocity"):
        rng = np.random.default_rng([lab.seed, 1])
        seen = np.flatnonzero(np.isfinite(ring_map(lab, lab.sky.cube.target[:, 0])))
        pixel = rng.choice(seen, number)
        velocity, channels = lab.source.channels(-PROFILE_KMS, PROFILE_KMS)
        total = np.array([values[pixel].sum(dtype=np.float64) for values in channels])
    return lab.draw(
        dust_curves.velocity_profile(velocity, total, (LOW_KMS, HIGH_KMS), number),
        "velocity_profile",
        _SECTION,
        "Figure 1: the 21 cm line by velocity",
        f"Sum over {number:,} random pointings outside the mask. Dotted: the range of the 64 "
        "channels that the models see.",
    )


def _maps(lab: Lab) -> Captions:
    column = COLUMN_PER_K_KMS * CHANNEL_KMS * ring_map(lab, lab.sky.cube.inputs.sum(1))
    dust = ring_map(lab, lab.sky.cube.target[:, 0])
    share = np.isfinite(dust).mean()
    kept = f"{LOW_KMS:g} to {HIGH_KMS:g} km/s".replace("-", "−")
    return lab.draw(
        skymaps.sky_map(
            column, "Hydrogen, integrated", "$10^{20}$ cm$^{-2}$ (optically thin)", "log"
        ),
        "hydrogen",
        _SECTION,
        "Integrated 21 cm emission",
        f"Sum over the channels from {kept} as a column density of optically thin gas; "
        f"low-passed at ell 460, Nside {lab.sky.nside}. Grey: the mask, which leaves {share:.0%} "
        "of the sky.",
    ) | lab.draw(
        skymaps.sky_map(dust, "Dust, the target", unit_text(lab), "log"),
        "dust",
        _SECTION,
        "The dust to predict",
        f"Source: {_source_text(lab)}. The same filter and mask.",
    )


def unit_text(lab: Lab) -> str:
    """The unit of the dust for figures; at what frequency a user's is, no file says."""
    unit = lab.sky.target_unit
    text = {"uK_RJ": r"µK$_\mathrm{RJ}$", NO_UNIT: "no unit"}.get(unit, unit)
    return f"{text} at 353 GHz" if lab.source.gas else text


def _source_text(lab: Lab) -> str:
    return "the mock Galaxy at 353 GHz" if lab.source.gas else lab.sky.source


def _unpredictable(lab: Lab, gas: MockGas) -> None:
    shares = unpredictable_share(gas.dust, ELL_EDGES)
    for k, (low, high) in enumerate(ELL_EDGES):
        values = {name: float(share[k]) for name, share in shares.items()}
        lab.run.records.append(
            {"step": "unpredictable", "ell_low": low, "ell_high": high, **values}
        )
        log.info(
            "ell %d to %d: %.1f%% of the dust's variance cannot be predicted from gas", low, high,
            100 * values["unpredictable"],
        )  # fmt: skip


def _ceiling(lab: Lab, gas: MockGas) -> None:
    """Perfect knowledge of the gas of every layer, molecules too, on the same test cutouts."""
    nside, target = lab.sky.nside, lab.sky.cube.target
    known = paper_filter(nside).full_sky(gas.dust.predictable)
    nested = torch.from_numpy(known[hp.nest2ring(nside, np.arange(known.size))]).to(target.device)
    cube = SkyCube((nested * target[:, 1]).unsqueeze(1), target)
    sky = DustSky(cube, np.zeros(1), lab.sky.target_unit, "mock")
    scores = lab.score({"perfect_gas": lambda c: c.inputs[:, 0]}, "north_south", "test", sky)
    lab.record(scores["perfect_gas"], "ceiling")
