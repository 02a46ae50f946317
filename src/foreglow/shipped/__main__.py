"""Make the shipped models anew: `make models`."""

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from foreglow.files import replace_directory
from foreglow.shipped import shipped_models

for model in shipped_models():
    with tempfile.TemporaryDirectory(dir=model.folder.parent) as place:
        out = Path(place) / model.name
        subprocess.run(
            [sys.executable, "-m", "foreglow", *shlex.split(model.command), "--out", str(out)],
            check=True,
            cwd=model.folder.parent,  # where plans lie
        )
        replace_directory(out, model.folder)
