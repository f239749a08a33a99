from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import decode, distill, offline, ops, table, vllm

BENCHMARKS = {
    "decode": decode.run,
    "distill": distill.run,
    "offline": offline.run,
    "ops": ops.run,
    "vllm": vllm.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Time the package, results checked first."
    )
    parser.add_argument("name", nargs="?", choices=sorted(BENCHMARKS), help="one benchmark; all of them without it")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, done within 20 seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also save the rows here")
    options = parser.parse_args()
    rows = []
    for name in [options.name] if options.name else BENCHMARKS:
        of_one = BENCHMARKS[name](quick=options.quick)
        table.show(name, of_one)
        rows += of_one
    if options.json:
        table.save(options.json, rows)


if __name__ == "__main__":
    main()
