"""What several tests of the command line share."""


def pairs(maps):
    """The words of `--maps BAND=FILE` for every band."""
    return [word for band, path in maps.items() for word in ("--maps", f"{band}={path}")]


def is_one_paragraph(err):
    """What a user sees of a mistake: the word error, no traceback, no blank line."""
    return err.startswith("error: ") and "Traceback" not in err and "\n\n" not in err.strip()
