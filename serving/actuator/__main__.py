"""The actuator's process: what `forecaster actuate` becomes once its options are read.

The command line's library and what that imports take a fifth of the memory, for nothing: the options come as one JSON.
"""

from __future__ import annotations

import logging
import os
import sys

from forecaster.errors import InputError
from serving.actuator import wiring


def main(arguments: list[str]) -> int:
    asked = wiring.Asked.of_json(arguments[0])
    level = logging.DEBUG if asked.verbose else logging.INFO
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for name in ("httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return wiring.actuate(asked, os.environ)
    except InputError as error:
        print(f"forecaster: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
