"""``python -m fasterrcnn_ops``: versions, what was built, what is in use."""

from __future__ import annotations

import platform
import sys

import fasterrcnn_ops


def main() -> int:
    print(f"fasterrcnn_ops {fasterrcnn_ops.__version__}, Python {platform.python_version()}, {platform.platform()}")
    try:
        from fasterrcnn_ops import _library

        facts = _library.describe()
    except ImportError as error:
        print(error, file=sys.stderr)
        return 1
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"  {name:<{width}}  {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
