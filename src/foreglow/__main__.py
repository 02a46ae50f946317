"""The command `foreglow`, and `python -m foreglow`: Ctrl+C holds from the first import on."""

from foreglow import interrupt


def main() -> None:
    """Run the command line; see `foreglow.cli.main`."""
    with interrupt.ends_the_process():
        from foreglow.cli import main

        main()


if __name__ == "__main__":
    main()
