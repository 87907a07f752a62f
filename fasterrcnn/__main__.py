"""``python -m fasterrcnn`` is the command ``fasterrcnn``."""

from fasterrcnn.cli import main

main()
