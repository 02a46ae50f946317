"""What every step of the reproduction shares: the sky, trained models, scores, recording."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from foreglow.compute.workers import MapFn
from foreglow.dust.baselines import LinearModel, NormalEquations
from foreglow.dust.cutouts import Cutouts, CutoutSampler
from foreglow.dust.inputs import DustSky
from foreglow.dust.model import DustModel
from foreglow.dust.plan import DustPlan
from foreglow.dust.results import DustMap
from foreglow.dust.scores import Predictor, Scores, integrated_predictor, score
from foreglow.dust.spectra import fundamental_bands
from foreglow.dust.train import train
from foreglow.dust.validation import hold_out
from foreglow.errors import MapError, SkyError
from foreglow.maps.gnomonic import Grid, Pointings
from foreglow.maps.hemispheres import Method, Region, split
from foreglow.report.recognition import figures
from foreglow.reproduce.zhang2019.paper import HIGH_KMS, LOW_KMS
from foreglow.reproduce.zhang2019.source import Source, open_source
from foreglow.runs import Run

log = logging.getLogger("foreglow")

SETS = ("train", "test", "validation")
SPLITS = ("north_south", "east_west")
WIDE = "unet_wide"
"""The one network that sees another range of velocities than the experiment's."""
POLARISED = "unet_polarised"
"""The one network of Q and U, which sees channels that are not filtered."""
POLARISED_EAST = "unet_polarised_east"
"""The same on the other division of the sky, where a preset has it."""
METHOD: Method = "nearest"
_FEW = 8  # cutouts that show that a region has some

Captions = dict[str, dict[str, str]]
"""Title, caption and section of figures, by file name."""


@dataclass(frozen=True, eq=False)
class Experiment:
    """An open run with all that its steps need.

    Parameters
    ----------
    run : Run
    settings : dict
        The preset at a scale.
    source : Source
    sky : DustSky
        The 64 channels of the paper, dust and mask.
    seed : int
    device : torch.device
    resume : bool
        Go on with a training that was interrupted.
    opening : Opening
        How other processes open the sky.
    grid : Grid
        Of the cutouts: the paper's.
    map_fn : MapFn
        Where realisations are made, see `foreglow.compute.workers.open_workers`.
    maps : list of DustMap
        The predicted map, once it is made.
    """

    run: Run
    settings: dict[str, Any]
    source: Source
    sky: DustSky
    seed: int
    device: torch.device
    resume: bool
    opening: "Opening"
    grid: Grid = field(default_factory=Grid)
    map_fn: MapFn = map
    maps: list[DustMap] = field(default_factory=list)
    _divided: dict[str, dict[str, CutoutSampler]] = field(default_factory=dict)
    _lacking: dict[str, str | None] = field(default_factory=dict)
    _linear: dict[str, tuple[LinearModel, LinearModel]] = field(default_factory=dict)
    _scores: dict[tuple[str, str, str], Scores] = field(default_factory=dict)

    # ---- the sky ------------------------------------------------------------------------------

    def regions(self, name: str) -> dict[str, Region]:
        """Training and test region of a split, by the name of the set."""
        return dict(zip(SETS[:2], split(name, self.grid, self.sky.nside, METHOD), strict=True))

    def sampler(self, split_name: str, which: str) -> CutoutSampler:
        """Cutouts of a set of a split: training without the wedge, and validation in it."""
        if split_name not in self._divided:
            regions = self.regions(split_name).values()
            train, test = (self.sky.sampler(region, self.grid, METHOD) for region in regions)
            training, validation = hold_out(train)
            samplers = (training, test, validation)
            self._divided[split_name] = dict(zip(SETS, samplers, strict=True))
        return self._divided[split_name][which]

    def lacks(self, split_name: str) -> str | None:
        """Why a real sky has no such split: too little of it, or too large pixels; None if it has.

        The mock has all, or there is an error.
        """
        if self.source.gas is None and split_name not in self._lacking:
            reason = None
            try:
                for region in self.regions(split_name).values():
                    self.sky.sampler(region, self.grid, METHOD).fixed_pointings(_FEW)
            except MapError as error:
                reason = str(error)
            self._lacking[split_name] = reason
        return self._lacking.get(split_name)

    def pointings(self, split_name: str, which: str) -> Pointings:
        """The fixed cutouts on which every model is scored; fewer of the wedge, which is small."""
        seed = self.seed + SETS.index(which)
        number = self.settings["test_cutouts"] // (4 if which == "validation" else 1)
        return self.sampler(split_name, which).fixed_pointings(number, seed)

    @property
    def ell(self) -> NDArray[np.float64]:
        """Middle of each band of the curves; close to 2 Nside the maps hold little."""
        edges = np.array(fundamental_bands(self.grid).edges)
        middle = 0.5 * (edges[1:] + edges[:-1])
        return middle[edges[1:] <= 1.75 * self.sky.nside]

    # ---- models -------------------------------------------------------------------------------

    @property
    def trainings(self) -> dict[str, tuple[DustPlan, str]]:
        """Plan and split of every network, by the name of its folders in the run."""
        table, north_south = self.settings, SPLITS[0]
        plans = {name: DustPlan(**table[name]) for name in table["networks"]}
        if "variants" not in table:  # as in the demo
            return {name: (plan, north_south) for name, plan in plans.items()}
        variant = DustPlan(**table["variants"])
        plans |= {f"lambda_{w:g}": replace(variant, weight=w) for w in table["lambdas"]}
        plans |= {f"unet_{i}": replace(variant, inputs=i) for i in ("moments", "integrated")}
        found = {name: (plan, north_south) for name, plan in plans.items()}
        for name, split_name in ((POLARISED, north_south), (POLARISED_EAST, SPLITS[1])):
            if name in table:
                found[name] = (DustPlan(**table[name]), split_name)
        return found | {"east_west": (variant, SPLITS[1]), WIDE: (variant, north_south)}

    def trained(self, name: str, sky: DustSky | None = None) -> DustModel:
        """Train a model in the training region, or load what this run has trained.

        Parameters
        ----------
        name : str
            One of `trainings`.
        sky : DustSky, optional
            Another than the experiment's.
        """
        plan, split_name = self.trainings[name]
        folder = self.run.models / name
        if (folder / "model.toml").is_file():  # by an earlier step, or before an interruption
            log.info("%s: trained already", name)
            return DustModel.load(folder, self.device)
        with self.run.stage(f"train {name}"):
            model, history = train(
                sky or self.sky, self.regions(split_name)["train"], plan,
                self.run.folder / "training" / name, self.seed, self.device, self.resume,
                self.grid, METHOD,
            )  # fmt: skip
        model.card["history"] = history
        model.save(folder)
        return model

    def linear(self, split_name: str) -> tuple[LinearModel, LinearModel]:
        """The linear models of a split: one weight a channel, and one a channel and scale."""
        if split_name not in self._linear:
            with self.run.stage(f"linear models, {split_name}"):
                sampler = self.sampler(split_name, "train")
                where = sampler.fixed_pointings(self.settings["linear_cutouts"], self.seed + 2)
                n_channel = len(self.sky.velocity_kms)
                equations = NormalEquations.of(sampler.batches(where, 32), n_channel, self.grid)
                self._linear[split_name] = equations.solve(), equations.solve(scale_dependent=True)
        return self._linear[split_name]

    # ---- scores -------------------------------------------------------------------------------

    def baselines(self, split_name: str, which: str) -> dict[str, Scores]:
        """Scores of the paper's simple models, computed once."""
        names = ("integrated", "linear", "linear_scale_dependent")
        if (split_name, which, names[0]) not in self._scores:
            one, by_scale = self.linear(split_name)
            predictors: dict[str, Predictor] = {
                "integrated": integrated_predictor,
                "linear": lambda cutouts: one(cutouts.inputs),
                "linear_scale_dependent": lambda cutouts: by_scale(cutouts.inputs),
            }
            with self.run.stage(f"score the simple models, {split_name}, {which}"):
                self._keep(split_name, which, self.score(predictors, split_name, which))
        return {name: self._scores[split_name, which, name] for name in names}

    def network_scores(
        self,
        name: str,
        model: DustModel,
        split_name: str = "north_south",
        which: str = "test",
        sky: DustSky | None = None,
    ) -> Scores:
        """Scores of a network on the fixed cutouts, computed once."""
        key = (split_name, which, name)
        if key not in self._scores:
            with self.run.stage(f"score {name}, {split_name}, {which}"):
                predictors = {name: network_predictor(model)}
                self._keep(split_name, which, self.score(predictors, split_name, which, sky))
        return self._scores[key]

    def score(
        self,
        predictors: Mapping[str, Predictor],
        split_name: str,
        which: str,
        sky: DustSky | None = None,
    ) -> dict[str, Scores]:
        """Score predictors on the fixed cutouts of a set; of another sky than its own if asked."""
        sampler = self.sampler(split_name, which)
        if sky is not None:
            sampler = replace(sampler, sky=sky.cube)
        return score(predictors, sampler, self.pointings(split_name, which), batch=32)

    def curve(self, scores: Scores) -> NDArray[np.float64]:
        """Correlation by cutout and band, those of `ell`."""
        return scores.curve[:, : len(self.ell)]

    # ---- what is kept -------------------------------------------------------------------------

    def record(
        self,
        scores: Scores,
        step: str,
        split_name: str = "north_south",
        which: str = "test",
        weight: float | None = None,
        **fields: Any,
    ) -> None:
        """Add the record of a model's scores, beside the integrated map's.

        Parameters
        ----------
        scores : Scores
        step : str
            That the record belongs to.
        split_name, which : str
        weight : float, optional
            The lambda of a network.
        **fields
            `model` where the name of the scores is not its own, `paper_wins50`, `paper_wins150`.
        """
        reference = self.baselines(split_name, which)["integrated"]
        record = scores.record(reference) | {"split": split_name, "set": which, "step": step}
        record = {**record, "lambda": weight, "paper_wins50": None, "paper_wins150": None, **fields}
        self.run.records.append(record)
        log.info(
            "%s, %s, %s: r50 %.4f, r150 %.4f, above integrated %s",
            record["model"], split_name, which, record["r50"], record["r150"],
            "–" if record.get("wins50") is None
            else f"{record['wins50']:.3f}, {record['wins150']:.3f}",
        )  # fmt: skip

    def draw(self, figure: Figure, name: str, section: str, title: str, caption: str) -> Captions:
        """Save a figure; returns its caption."""
        figures.save(figure, self.run.figures, name, self.settings.get("pdf_fonts", 42))
        return {name: {"title": title, "caption": caption, "section": section}}

    def _keep(self, split_name: str, which: str, scores: Mapping[str, Scores]) -> None:
        for name, value in scores.items():
            self._scores[split_name, which, name] = value


@dataclass(frozen=True)
class Opening:
    """What a process needs to open the sky of an experiment.

    Parameters
    ----------
    sky : str
        As `open_source` takes it.
    nside, seed : int
    device : str
    call : str
        Of one reproduction: files may have changed before the next.
    """

    sky: str
    nside: int
    seed: int
    device: str
    call: str = field(default_factory=lambda: uuid4().hex)


def open_experiment(
    run: Run, settings: dict[str, Any], opening: Opening, resume: bool, map_fn: MapFn = map
) -> Experiment:
    """An experiment with its sky, which a process opens once."""
    source, sky = _opened(opening)
    device = torch.device(opening.device)
    return Experiment(
        run, settings, source, sky, opening.seed, device, resume, opening, map_fn=map_fn
    )


@lru_cache(maxsize=1)
def _opened(opening: Opening) -> tuple[Source, DustSky]:
    """The source, and its sky in the range of the paper."""
    source = open_source(opening.sky, opening.nside, opening.seed)
    return source, on_device(source.sky(LOW_KMS, HIGH_KMS), torch.device(opening.device))


def validate_cutouts(experiment: Experiment) -> None:
    """Check before any training that both sides of a real sky have cutouts.

    Raises
    ------
    SkyError
        If one has none.
    """
    if (reason := experiment.lacks(SPLITS[0])) is not None:
        raise SkyError(
            f"expected a sky that can train in the north and be judged in the south, got: {reason}."
            " Of a region in one hemisphere `foreglow dust train --cube ... --dust ... --mask ... "
            "--region south` takes the same files, and keeps a part of it for validation."
        )


def network_predictor(model: DustModel) -> Predictor:
    """A model as what scores it."""

    def predict(cutouts: Cutouts) -> torch.Tensor:
        return model(cutouts.inputs, cutouts.mask)

    return predict


def on_device(sky: DustSky, device: torch.device) -> DustSky:
    """The same sky with its cube on a device."""
    return replace(sky, cube=sky.cube.to(device))
