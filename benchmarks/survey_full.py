"""A survey of files as large as the archives': what it takes, beside what it had said before.

`python benchmarks/survey_full.py FOLDER [SURVEY]` (wmap+planck) makes files of the products' forms
and Nside of the mock Galaxy at Nside 256, each model in a quadrant, at the beam of each band and
with a hundredth of its noise (9 GiB for wmap+planck; a file that is there stays), runs `foreglow
recognize survey` on them, and writes survey_full.json: what the command said of memory and time and
what it took, and how often its answers are right in pixels that lie in one quadrant.
"""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import healpy as hp
import numpy as np

from measure import processor
from survey import measured

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import survey_forms as forms
from foreglow.data.registry import find_files
from foreglow.recognition.answers import read_answer

RESULTS = Path(__file__).parent / "survey_full.json"
NSIDE, NOISE = 256, 1e-2


def of_nside(nside):
    """Forms are of this Nside from now on."""
    forms.NSIDE, forms.N_PIX = nside, hp.nside2npix(nside)


def skies(survey):
    """What the bands see, without noise, and the true models, Nside 256, RING."""
    of_nside(NSIDE)
    return forms.skies(survey)


def make_files(folder, survey):
    """Fill a cache, a file at a time."""
    sky = skies(survey)
    low = dict(sky.data)
    sky.data.clear()
    for band, fwhm in zip(sky.survey.bands, sky.instrument.fwhm_arcmin, strict=True):
        file = find_files(band.files[0])[0]
        path = folder / file.place
        if path.is_file():
            continue
        q_u = hp.smoothing([0 * low[band.name][0], *low[band.name]], np.radians(fwhm / 60))[1:]
        of_nside(file.product.nside)
        sky.data[band.name] = hp.ud_grade(q_u, forms.NSIDE)
        make = forms.wmap if band.name.startswith("WMAP") else forms.planck
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(make(sky, band.name, NOISE))
        part.rename(path)
        sky.data.clear()
        print(path, round(path.stat().st_size / 2**30, 2), "GiB", flush=True)


def worth(path, truth):
    """Shares of right answers: of all, of the sure, and how many are sure; and which were named.

    `named` counts the sure answers by true model, in the order of the candidates.
    """
    answer = read_answer(path, forms.MODELS)
    nside = hp.npix2nside(answer.best.size)
    mean, square = (hp.ud_grade(truth.astype(float) ** power, nside) for power in (1, 2))
    pure, right = square == mean**2, answer.best == np.rint(mean)
    seen, sure = pure & answer.seen, pure & answer.sure
    return {
        "right": float(right[seen].mean()), "sure_right": float(right[sure].mean()),
        "sure": float(sure.sum() / seen.sum()),
        "named": {
            name: np.bincount(answer.best[sure & (mean == k)], minlength=len(forms.MODELS)).tolist()
            for k, name in enumerate(forms.MODELS)
        },
    }  # fmt: skip


def main(folder, survey="wmap+planck"):
    """Files, the run, the record."""
    # in a process of its own: what it takes would count as the survey's
    subprocess.run([sys.executable, __file__, "files", str(folder / "data"), survey], check=True)
    os.environ["FOREGLOW_DATA"] = str(folder / "data")
    words = ["foreglow", "recognize", "survey", survey, "--out", "run"]
    run = folder / "run"
    found = measured([sys.executable, "-m", *words[:-1], str(run)], folder)
    said = (folder / "log.txt").read_text(encoding="utf-8")
    if found["code"]:
        sys.exit(said)
    truth = skies(survey).truth
    record = {
        "command": " ".join(words), "told": re.findall(r"(?:memory|time): .*", said), **found,
        "worth": {name: worth(run / f"{name}.fits", truth) for name in ("fits", "network")},
        "told_of_worth": [
            row for row in json.loads((run / "metrics.json").read_text())["records"]
            if row["step"] == "worth"
        ],
        "run_bytes": sum(path.stat().st_size for path in run.rglob("*") if path.is_file()),
        "processor": processor(), "cores": os.cpu_count(), "load": os.getloadavg()[1],
        "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip
    RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    if sys.argv[1] == "files":
        make_files(Path(sys.argv[2]), sys.argv[3])
    else:
        main(Path(sys.argv[1]).absolute(), *sys.argv[2:])
