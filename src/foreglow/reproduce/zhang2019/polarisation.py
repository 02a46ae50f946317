"""The next step, which the paper leaves for future work: the dust's polarisation from hydrogen."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from foreglow.dust.cutouts import Cutouts, CutoutSampler
from foreglow.dust.hough import hough_polarisation
from foreglow.dust.inputs import DustSky, observed_sky, true_sky
from foreglow.dust.model import DustModel
from foreglow.dust.orientation import gradient_polarisation, observed
from foreglow.dust.polarised_scores import (
    PolarisedScores,
    gradient_predictor,
    score_polarisation,
)
from foreglow.dust.polarised_sphere import CENTRES_NSIDE
from foreglow.dust.predict import predict_map
from foreglow.dust.results import PolarisedDustMap
from foreglow.dust.scores import Predictor, model_predictor
from foreglow.dust.sky_cube import SkyCube
from foreglow.dust.stitch import centres, target_maps
from foreglow.maps import healpix as hp
from foreglow.maps.gnomonic import Grid
from foreglow.report.dust import curves as dust_curves
from foreglow.report.dust import maps as dust_maps
from foreglow.report.dust.view import polarised_view
from foreglow.report.page.skyview import save_view
from foreglow.reproduce.zhang2019.experiment import (
    POLARISED,
    SPLITS,
    Captions,
    Experiment,
    log,
    on_device,
)
from foreglow.reproduce.zhang2019.polarised_cleaning import polarised_cleaning
from foreglow.reproduce.zhang2019.polarised_east_west import east_to_west
from foreglow.reproduce.zhang2019.polarised_maps import polarised_maps, polarised_seams
from foreglow.reproduce.zhang2019.polarised_sphere import on_the_sphere
from foreglow.sky.gas import MockGas, mock_gas

_SPLIT = SPLITS[0]
_SECTION = "Polarised dust"
SHIPPED = "mock-dust-polarised"
_NOTE = (
    "Q and U (COSMO) predicted from the 21 cm line by the network trained in the northern Galactic "
    "hemisphere on a map with noise of Planck's depth; true ones have no noise; all low-passed at "
    "ell 460."
)
_OTHERS = {"other_seed": (5, 1.0), "half_alignment": (0, 0.5)}  # seeds further, filaments


def polarised_dust(experiment: Experiment) -> Captions:
    """A network of I, Q and U trained in the north; E and B in the south, beside simpler models."""
    gas = experiment.source.gas
    if gas is None:
        log.info("a sky of files: its polarised dust is not known, and none is predicted")
        return {}
    velocity = experiment.sky.velocity_kms
    with experiment.run.stage("polarised sky"):
        noisy = on_device(observed_sky(gas, velocity, "polarisation"), experiment.device)
    model = experiment.trained(POLARISED, noisy)
    with experiment.run.stage("score polarisation"):
        layers = on_device(known_gas(gas, noisy), experiment.device)
        found = _scores(experiment, gas, noisy, layers, model)
    found |= east_to_west(experiment, gas, noisy)
    for target, scores in found.items():
        for one in scores.values():
            record = one.record(scores["gradients"].first(len(one.curve)))
            split = target if target in SPLITS else _SPLIT
            record |= {"step": "polarisation", "split": split, "set": "test", "target": target}
            if one.name == POLARISED and "hough" in scores:
                hough = scores["hough"]
                above = one.first(len(hough.curve)).record(hough)
                record |= {f"hough_{k}": v for k, v in above.items() if k.startswith("wins")}
            experiment.run.records.append(record)
            log.info(
                "%s, of %s: E %.3f, %.3f; B %.3f, %.3f; alignment %.3f", one.name, target,
                *(record[f"spectrum_{k}"] for k in ("e50", "e150", "b50", "b150")),
                record["alignment"],
            )  # fmt: skip
    dust = _predicted_sky(experiment, gas, noisy, model)
    seams = polarised_seams(experiment, model, noisy.cube, dust)
    experiment.run.records.append(seams)
    log.info("Q and U of two blends differ by %.2f%% of their rms", 100 * seams["over_rms"])
    captions = _curve_figure(experiment, found["truth"])
    captions |= _example_figure(experiment, noisy, model)
    simple = {"gradients": gradient_predictor, "hough_averaged": _averaged_hough}
    known = {"perfect_gas": _by_layer}
    with experiment.run.stage("maps of polarised dust"):
        shipped, cubes = _shipped(experiment, model), (noisy.cube, layers.cube)
        maps = polarised_maps(experiment, *cubes, shipped, simple, known, model.fine)
        maps[POLARISED] = np.stack([dust.mean, dust.q, dust.u])
    skies = {"truth": true_sky(gas, noisy).cube, "observed": noisy.cube}
    captions |= on_the_sphere(experiment, skies, maps)
    return captions | polarised_cleaning(experiment, gas, maps)


def _predicted_sky(
    experiment: Experiment, gas: MockGas, sky: DustSky, model: DustModel
) -> PolarisedDustMap:
    """Q and U of the whole footprint, as FITS and to look at beside those of the mock."""
    with experiment.run.stage("polarised map"):
        where = centres(min(CENTRES_NSIDE, experiment.settings["centres_nside"]))
        dust = predict_map(model, sky.cube, where, source=sky.source)
    assert isinstance(dust, PolarisedDustMap)
    folder = experiment.run.folder / "maps"
    folder.mkdir(exist_ok=True)
    dust.to_fits(folder / "polarised_dust.fits", overwrite=True)
    log.info("polarised_dust.fits: %s", dust.summary())
    truth = target_maps(true_sky(gas, sky).cube)[1:]
    note = f"{_NOTE} Errors of Q and U: {dust.qu_sigma}."
    save_view(
        polarised_view("9_polarised", "Polarised dust from hydrogen", note, dust, truth, sky),
        folder,
    )
    return dust


def _scores(
    experiment: Experiment, gas: MockGas, noisy: DustSky, layers: DustSky, model: DustModel
) -> dict[str, dict[str, PolarisedScores]]:
    """Scores against Q and U as observed, as only the mock knows them, and on other skies."""
    velocity, clean = experiment.sky.velocity_kms, true_sky(gas, noisy)
    region, where = experiment.regions(_SPLIT)["test"], experiment.pointings(_SPLIT, "test")
    shipped = _shipped(experiment, model)
    ours: dict[str, Predictor] = {name: model_predictor(one) for name, one in shipped.items()}
    ours |= {"gradients": gradient_predictor, POLARISED: model_predictor(model)}

    def judged(
        sky: DustSky, predictors: dict[str, Predictor], n: int | None = None
    ) -> dict[str, PolarisedScores]:
        sampler = CutoutSampler(sky.cube, region, experiment.grid, "nearest", fine=model.fine)
        return score_polarisation(predictors, sampler, where[:n], 16)

    def another(further: int, filaments: float) -> dict[str, PolarisedScores]:
        other = mock_gas(experiment.sky.nside, experiment.seed + further, filaments)
        sky = true_sky(other, observed_sky(other, velocity, "polarisation"))
        return judged(on_device(sky, experiment.device), ours)

    known = {"perfect_gas": _by_layer, "perfect_field": _true_angles}
    few = experiment.settings["hough_cutouts"]
    lines: dict[str, Predictor] = {"hough": _hough, "hough_averaged": _averaged_hough}
    truth = (
        judged(clean, ours)
        | judged(clean, lines, few)
        | judged(replace(clean, cube=SkyCube(layers.cube.inputs, clean.cube.target)), known)
    )
    return {"truth": truth, "observed": judged(noisy, ours)} | {
        name: another(*_OTHERS[name]) for name in experiment.settings["polarised_skies"]
    }


def _shipped(experiment: Experiment, model: DustModel) -> dict[str, DustModel]:
    """The model that comes with foreglow, where the sky has its channels and pixels."""
    shipped = DustModel.load(SHIPPED, experiment.device)
    same = shipped.velocity_kms == model.velocity_kms and shipped.nside == model.nside
    return {SHIPPED: shipped} if same else {}


def _hough(cutouts: Cutouts) -> Tensor:
    """The Rolling Hough Transform of eight channels together, some 10 km/s, as published."""
    step = 8 if cutouts.inputs.shape[1] % 8 == 0 else 1
    return _transformed(cutouts, cutouts.inputs.unflatten(1, (-1, step)).sum(2))


def _averaged_hough(cutouts: Cutouts) -> Tensor:
    """That of the integrated map, its angles averaged as gradients are: better here."""
    return _transformed(cutouts, cutouts.inputs.sum(1, keepdim=True), average_arcmin=180.0)


def _transformed(cutouts: Cutouts, gas: Tensor, average_arcmin: float = 0.0) -> Tensor:
    seen, _, fine = observed(cutouts.inputs, cutouts.mask)
    grid = Grid(gas.shape[-1], Grid().pixel_arcmin / fine)
    made = hough_polarisation(gas, grid, seen, average_arcmin=average_arcmin)
    return torch.nn.functional.avg_pool2d(made, fine)


def known_gas(gas: MockGas, sky: DustSky) -> DustSky:
    """The polarised sky of a mock with the columns of its layers in the place of channels."""
    order = hp.nest2ring(sky.nside, np.arange(len(sky.cube.target)))
    columns = np.stack([(layer.cold + layer.warm)[order] for layer in gas.hydrogen.layers], 1)
    inputs = torch.from_numpy(columns).to(sky.cube.target) * sky.cube.target[:, 1:2]
    cube = SkyCube(inputs.contiguous(), sky.cube.target)
    return DustSky(cube, np.arange(columns.shape[1]), sky.target_unit, sky.source)


def _by_layer(cutouts: Cutouts) -> Tensor:
    """Each layer's column, polarised as its own gradients point; nothing knows of the field."""
    layers = cutouts.inputs.split(1, 1)
    return torch.stack([gradient_polarisation(one, cutouts.mask) for one in layers]).sum(0)


def _true_angles(cutouts: Cutouts) -> Tensor:
    """The column of all layers, polarised as the dust is: what knows the field but no fraction."""
    qu = cutouts.target[:, 1:]
    _, share, fine = observed(cutouts.inputs, cutouts.mask)
    total = torch.nn.functional.avg_pool2d(cutouts.inputs.sum(1, keepdim=True), fine) / share
    return total * qu / qu.square().sum(1, keepdim=True).sqrt().clamp(min=1e-20)


def _curve_figure(experiment: Experiment, scores: dict[str, PolarisedScores]) -> Captions:
    kept = len(experiment.ell)
    panels = {
        f"{letter} modes": {name: s.curve[:, k, :kept] for name, s in scores.items()}
        for k, letter in enumerate("EB")
    }
    return experiment.draw(
        dust_curves.correlation_by_ell(experiment.ell, panels),
        "polarisation_by_ell",
        _SECTION,
        "E and B of the dust, predicted from hydrogen",
        f"Ratio of spectra with the dust's polarisation without noise, mean over "
        f"{experiment.settings['test_cutouts']:,} southern cutouts; trained in the north on maps "
        "with noise of Planck's depth. Perfect knowledge of the gas: the column of each layer, "
        "polarised as its own gradients point; of the field: all gas, polarised as the dust is. "
        f"The Hough transform: of {experiment.settings['hough_cutouts']} cutouts, whose sides it "
        "leaves empty.",
    )


def _example_figure(experiment: Experiment, sky: DustSky, model: DustModel) -> Captions:
    where = experiment.pointings(_SPLIT, "test")[:1]
    region = experiment.regions(_SPLIT)["test"]
    sampler = CutoutSampler(sky.cube, region, experiment.grid, "nearest", fine=model.fine)
    cut = sampler.at(where)
    maps = {
        "target": cut.target[0, 1:],
        "gradients": gradient_predictor(cut)[0, 1:],
        POLARISED: model(cut.inputs, cut.mask)[0, 1:],
    }
    lon, lat = float(where.lon_deg[0]), float(where.lat_deg[0])
    return experiment.draw(
        dust_maps.polarised_cutouts(
            {name: m.cpu().numpy() for name, m in maps.items()},
            cut.mask[0].cpu().numpy(),
            experiment.grid.pixel_arcmin,
            f"Around l = {lon:.0f}°, b = {lat:.0f}°".replace("-", "−"),
        ),
        "polarised_cutout",
        _SECTION,
        "A cutout of the test set",
        "Polarised intensity over the largest of each map, and its direction; the target has noise "
        "of Planck's depth.",
    )
