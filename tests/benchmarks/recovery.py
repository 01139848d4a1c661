"""Coverage of the 80 % band before and after a level shift by the factor 2, live chain, generated series.

python tests/benchmarks/recovery.py [--model bundled|none|FOLDER] [--rows 24] [--stride 3]
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from models import chain
from training.benchmark.recovery import Plan, measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=chain.BUNDLED)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--stride", type=int, default=3, help="steps of five minutes between two runs of the chain")
    parser.add_argument("--warm", type=int, default=2, help="days that the chain runs before the shift")
    parser.add_argument("--hours", type=int, default=6, help="width of a window")
    asked = parser.parse_args()
    plan = replace(Plan(), rows=asked.rows, stride=asked.stride, warm_days=asked.warm, window_hours=asked.hours)
    found = measured(chain.named(asked.model), plan)
    print("hours since the shift", *(f"{end - asked.hours:>4}-{end:<3}" for end in found.hours))
    for name, shares in found.coverage.items():
        print(f"{name:>21}", *(f"{share:8.1%}" for share in shares))


if __name__ == "__main__":
    main()
