"""Code blocks of Markdown pages, and a shell whose `foreglow` is the one under test."""

import os
import select
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts)

_COMMANDS = ("foreglow", "make")  # what an unlabelled block of commands begins with

# asks whoever holds the pipes, prints the answer and ends as it says
_SHIM = """#!/usr/bin/env bash
words=$(printf '%s\\037' "$@")
printf '%s\\n' "$words" > "$FOREGLOW_PIPES/ask"
read -r code < "$FOREGLOW_PIPES/answer"
cat "$FOREGLOW_PIPES/out"
cat "$FOREGLOW_PIPES/err" >&2
exit "$code"
"""
# a target must exist; what it does is tested elsewhere
_MAKE = """#!/usr/bin/env bash
exec /usr/bin/env PATH="${PATH#*:}" make --dry-run --directory "$FOREGLOW_ROOT" "$@" > /dev/null
"""
# one task of the command that stands after their options
_LAUNCHER = """#!/usr/bin/env bash
while [ "$1" != foreglow ]; do shift; done
exec "$@"
"""

Answer = tuple[int, str, str]


@dataclass(frozen=True)
class Block:
    """A fenced block: language ("bash", "python", "toml", ...), text, line where it begins."""

    language: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    """The code blocks of a page in order; directives of Sphinx that hold no code left out."""
    tokens = MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8"))
    found = [_block(token) for token in tokens if token.type == "fence"]
    return [block for block in found if block is not None]


def _block(token) -> Block | None:
    language, text = token.info.strip(), token.content
    if language == "{code-cell}":
        lines = [line for line in text.splitlines() if not line.startswith(":tags:")]
        shell = lines[0] == "%%bash"
        language, text = ("bash", lines[1:]) if shell else ("python", lines)
        text = "\n".join(text) + "\n"
    elif language.startswith("{"):
        return None
    elif not language and text.replace(".venv/bin/", "").startswith(_COMMANDS):
        language = "bash"
    return Block(language, text, token.map[0] + 1)


def run_shell(text: str, folder: Path, foreglow: Callable[..., Answer]) -> None:
    """Run a block in bash; each `foreglow ...` in it is answered by a function of its words.

    Raises
    ------
    AssertionError
        If the block ends with another code than zero.
    """
    pipes = folder / ".pipes"
    pipes.mkdir(exist_ok=True)
    launchers = {"srun": _LAUNCHER, "torchrun": _LAUNCHER}
    for name, content in ({"foreglow": _SHIM, "make": _MAKE} | launchers).items():
        (pipes / name).write_text(content)
        (pipes / name).chmod(0o755)
    for name in ("ask", "answer"):
        (pipes / name).unlink(missing_ok=True)
        os.mkfifo(pipes / name)
    ask = os.open(pipes / "ask", os.O_RDWR)  # also for writing: an end that never closes
    changes = {"FOREGLOW_PIPES": str(pipes), "FOREGLOW_ROOT": str(ROOT)}
    environment = os.environ | changes | {"PATH": f"{pipes}:{os.environ['PATH']}"}
    with subprocess.Popen(
        ["bash", "-eu", "-c", text.replace(".venv/bin/", "")],
        cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    ) as shell:  # fmt: skip
        said = ""
        while shell.poll() is None:
            if select.select([ask], [], [], 0.02)[0]:
                words = os.read(ask, 65536).decode()  # at once: shorter than a pipe's buffer
                code, out, err = foreglow(*words.rstrip("\n").split("\x1f")[:-1])
                said += out + err
                (pipes / "out").write_text(out)
                (pipes / "err").write_text(err)
                (pipes / "answer").write_text(f"{code}\n")
        os.close(ask)
        assert shell.returncode == 0, f"{text}\n{shell.stderr.read()}\n{said}"
