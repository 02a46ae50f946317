"""Table of skies outside the training law, from the flat records of ``metrics.json``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from foreglow.report.page.page import Cell, render
from foreglow.report.page.tables import PROBLEMS, Record, binomial_error, problem_place

REFERENCE = "as trained"
"""What a record says of the law where the sky follows that of the training."""

_COLUMNS = ("Accuracy", "Calibration error", "No model fits", "Sure and wrong")
_LAWS = {
    REFERENCE: "nothing: the law of the training",
    "beta_scatter": "β_s scatters by {0} about −3 (trained: 0.2)",
    "beta_smoothing_deg": "β_s is smooth, FWHM {0}°, scatter 0.2",
    "dust_beta_scatter": "β_d scatters by {0} about 1.54 (trained: 0)",
    "dust_temperature_scatter": "T_d scatters by {0} K about 20 K (trained: 0)",
    "noise": "true noise is {0} of the noise stated",
    "curvature": "C of the curved model is {0} (trained: −0.052)",
    "ame_fraction": "AME is polarised by {0} (trained: 2%)",
    "gain": "calibration of each band is off by {0} (rms)",
    "band_centre": "frequency of each band is off by {0} (rms)",
    "angle_deg": "polarisation angle of each band is off by {0}° (rms)",
    "beam": "FWHM of each band is off by {0} (rms)",
    "uneven_noise": "ln of the noise varies over the sky by {0} (rms)",
    "knee_ell": "noise rises below ℓ = {0} as ℓ^−2.4",
}
_ONE_MODEL = {
    "curvature=0": "C is 0: accuracy is the share of pixels called power law",
    "ame_fraction=0": "no AME: accuracy is the share of pixels called so",
}


@dataclass(frozen=True)
class Trial:
    """What was measured on the skies of one law and noise.

    Attributes
    ----------
    accuracy, error : float in [0, 1]
        And its binomial standard error.
    ece : float in [0, 1]
        Expected calibration error.
    none_fits : float in [0, 1]
        Share of the pixels where chi-square rejects every model.
    sure_wrong : float in [0, 1], optional
        Share of the pixels that are given a probability above .9 of a model that is not theirs.
    flagged : float in [0, 1], optional
        Share of these where chi-square rejects that model.
    """

    accuracy: float
    error: float
    ece: float
    none_fits: float
    sure_wrong: float | None
    flagged: float | None


@dataclass(frozen=True)
class LawRow:
    """A problem and a law of the sky.

    Attributes
    ----------
    problem, law : str
        As in the records.
    trials : dict of Trial
        By noise scale.
    """

    problem: str
    law: str
    trials: dict[float, Trial]


def law_rows(records: Iterable[Record]) -> list[LawRow]:
    """Rows of the table, a problem and a law each.

    Parameters
    ----------
    records : iterable of mapping
        The ``records`` of ``metrics.json``; those without a ``law`` are passed over.

    Returns
    -------
    list of LawRow
        In the paper's order of problems, then in order of appearance.
    """
    rows: dict[tuple[str, str], LawRow] = {}
    for record in records:
        if record.get("law") is None or record.get("accuracy") is None:
            continue
        key = (str(record["problem"]), str(record["law"]))
        accuracy = float(record["accuracy"])
        rows.setdefault(key, LawRow(*key, {})).trials[float(record["noise_scale"])] = Trial(
            accuracy, binomial_error(accuracy, int(record["n_pixels"])), float(record["ece"]),
            float(record["none_fits"]), record.get("sure_wrong"), record.get("flagged"),
        )  # fmt: skip
    return sorted(rows.values(), key=lambda row: problem_place(row.problem))


def law_table(rows: Sequence[LawRow]) -> Markup:
    """Rows as an HTML ``<table>``, empty for no rows.

    Parameters
    ----------
    rows : sequence of LawRow
    """
    if not rows:
        return Markup()
    scales = sorted({scale for row in rows for scale in row.trials}, reverse=True)
    groups = {
        PROBLEMS.get(problem, problem): [(law_in_words(r.law), _cells(r, scales)) for r in group]
        for problem, group in groupby(rows, key=lambda row: row.problem)
    }
    return render("laws", scales=scales, columns=_COLUMNS, groups=groups)


def law_in_words(law: str) -> str:
    """What differs from the training law, in words."""
    if law in _ONE_MODEL:
        return _ONE_MODEL[law]
    key, _, value = law.partition("=")
    if key in ("ame_fraction", "gain", "band_centre"):
        value = f"{100 * float(value):g}%"
    return _LAWS[key].format(value.replace("-", "−")) if key in _LAWS else law


def _cells(row: LawRow, scales: Sequence[float]) -> list[str | Cell]:
    cells: list[str | Cell] = []
    for scale in scales:
        trial = row.trials.get(scale)
        if trial is None:
            cells += ["–"] * len(_COLUMNS)
            continue
        score = Cell(f"{trial.accuracy:.1%}", f"± {100 * trial.error:.1f}")
        cells += [score, f"{trial.ece:.1%}", f"{trial.none_fits:.1%}", _sure_wrong(trial)]
    return cells


def _sure_wrong(trial: Trial) -> str | Cell:
    if trial.sure_wrong is None:  # a run of an older foreglow
        return "–"
    return Cell(
        f"{trial.sure_wrong:.1%}",
        below="" if trial.flagged is None else f"{trial.flagged:.0%} flagged",
    )
