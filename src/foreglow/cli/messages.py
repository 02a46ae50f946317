"""Messages of the library, which name arguments, in the words of the command line."""

import re
from functools import cache

import typer
from typer.main import get_command

# an argument as messages write it: `memory=`, `overwrite=True`, `device='cpu'`
_ARGUMENT = re.compile(r"(?<![\w.=/'-])(?<!\w\()([a-z][a-z_]*)=(True\b)?(?=(\S?))")
_CODE = re.compile(r"(\"[^\"]*\"|`[^`]*`)")  # what is to be typed stays as it is


def in_options(message: str, app: typer.Typer) -> str:
    """Write arguments as options: `give another out=` becomes `give another --out`.

    Parameters
    ----------
    message : str
        An argument that no command has as an option is left as it is.
    app : Typer
        The command line: one name of an argument has one option in all its commands.
    """
    options = options_of(app)

    def written(found: re.Match[str]) -> str:
        option = options.get(found[1])
        if option is None:
            return found[0]
        value_follows = found[2] is None and found[3] not in ("", *",;:.)`")
        return f"{option} " if value_follows else option

    return "".join(
        part if _CODE.fullmatch(part) else _ARGUMENT.sub(written, part)
        for part in _CODE.split(message)
    )


@cache
def command_of(app: typer.Typer):
    """What Click runs and shows of an app; Typer would make it anew for every call."""
    return get_command(app)


@cache
def options_of(app: typer.Typer) -> dict[str, str]:
    """The option of each argument, over all commands."""
    left, found = [command_of(app)], {}
    while left:
        command = left.pop()
        left += getattr(command, "commands", {}).values()
        found |= {p.name: p.opts[0] for p in command.params if p.param_type_name == "option"}
    return found
