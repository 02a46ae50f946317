"""What the library says of arguments, said of options."""

import pytest
from typer.main import get_command

from foreglow.cli import app
from foreglow.cli.messages import in_options


@pytest.mark.parametrize(
    ("said", "printed"),
    [
        ("give another out=, or overwrite=True.", "give another --out, or --overwrite."),
        ("another place (out=).", "another place (--out)."),
        ("give device='cpu'; go on", "give --device 'cpu'; go on"),
        ("low_kms=-64.5, high_kms=17", "--low -64.5, --high 17"),
        ("pass dust_unit=, any text", "pass --unit, any text"),
        ("leave nest= out", "leave nest= out"),  # no command has it
        ("the file out=put.fits", "the file --out put.fits"),
        ("'a/nside=3/map.fits'", "'a/nside=3/map.fits'"),
        ('do: python -c "pysm3.Sky(x, nside=16)"', 'do: python -c "pysm3.Sky(x, nside=16)"'),
        ("healpy.ud_grade(nside=16)", "healpy.ud_grade(nside=16)"),
        ("as `f(x, seed=3)` does", "as `f(x, seed=3)` does"),
    ],
)
def test_arguments_become_options(said, printed):
    assert in_options(said, app) == printed


def test_one_argument_has_one_option_in_all_commands():
    left, found = [get_command(app)], {}
    while left:
        command = left.pop()
        left += getattr(command, "commands", {}).values()
        for parameter in command.params:
            if parameter.param_type_name == "option":
                found.setdefault(parameter.name, set()).add(parameter.opts[0])
    assert {name: options for name, options in found.items() if len(options) > 1} == {}
