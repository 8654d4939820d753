"""The command `python -m streamserve.cli`."""

from streamserve.cli.main import main

main()
