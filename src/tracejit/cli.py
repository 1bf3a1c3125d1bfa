"""The command `tracejit`: bench, explain, doctor, cache."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tracejit.tools import doctor, kernels, script
from tracejit.tools.bench import command as bench


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="tracejit", description="Look into tracejit and time it.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    bench.add_arguments(
        commands.add_parser("bench", help="time the workloads of benchmarks/", description="Time workloads.")
    )
    script.add_arguments(
        commands.add_parser(
            "explain", help="show what was compiled for a function of a script", description=script.__doc__
        )
    )
    commands.add_parser("doctor", help="versions, CPU, threads, cache, GPU, and a self-test")
    cache = commands.add_parser("cache", help="list or clear the kernels kept on disk")
    cache.add_argument("action", choices=("list", "clear"))
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command: 0 if all is well, 1 if something is found wrong, 2 if it cannot be carried out as given."""
    chosen = parser().parse_args(argv)
    try:
        if chosen.command == "bench":
            return bench.run(chosen)
        if chosen.command == "explain":
            return script.run(chosen)
        if chosen.command == "doctor":
            return doctor.main()
        print(kernels.listing() if chosen.action == "list" else kernels.clear())
        return 0
    except (bench.UsageError, script.ScriptError) as error:
        print(f"tracejit {chosen.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
