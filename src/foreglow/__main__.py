"""`python -m foreglow`."""

from foreglow.cli import main

main()
