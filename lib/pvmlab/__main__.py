# SPDX-License-Identifier: MIT
"""python -m pvmlab: what can be done with the lab outside a notebook."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from . import bench, doctor, image, places, selftests, stress
from .errors import PvmlabError
from .film import MAIN_STEPS
from .frontispiece import screenshots, the_call
from .lab import Lab


def main(words: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    args = _parser().parse_args(words)
    try:
        return args.run(args)
    except PvmlabError as e:
        print(f"pvmlab {args.command}: {e}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pvmlab", description=__doc__.partition(": ")[2])
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=text, description=text)
        found.set_defaults(run=run)
        return found
    command("doctor", lambda args: doctor.main(), "say what is missing on this computer, and how to mend it")
    timed = command("bench", _bench, "measure the budgets of the design here")
    timed.add_argument("--json", action="store_true", help="for machines")
    timed.add_argument("--peers", action="store_true", help="other tools on the same memory, where they are installed")
    timed.add_argument("--rounds", type=int, metavar="N", help="how often to measure each (default: as each needs)")
    command("warm", _warm, "boot and save a machine of each kernel, so that Lab() is quick from the first time on")
    drawn = command("picture", _picture, "draw the README's picture: one process_vm_mmap(), as this machine's kernel did it")
    drawn.add_argument("file", help="SVG file to write")
    shots = command("screenshots", _screenshots, "photograph the standard figures in Chromium, light and dark, at 1280 × 800")
    shots.add_argument("directory", help="where the PNG files go")
    pages = command("site", _site, "run the course and write it as pages whose figures step, with an index")
    pages.add_argument("folder", help="where to write them")
    verdicts = command("review", _review, "run the course and write its verdicts as one page")
    verdicts.add_argument("file", help="HTML file to write")
    stress.add_arguments(command("stress", stress.main, "random operations in the guest, held against a model"))
    selftests.add_arguments(command("selftests", selftests.main, "the kernel's own mm selftests on three kernels, compared"))
    command("version", _version, "print the versions of pvmlab and its kernels")
    return parser


def _bench(args: argparse.Namespace) -> int:
    if args.rounds is not None and args.rounds < 1:
        raise PvmlabError(f"bench --rounds {args.rounds}", "there is nothing to measure", "--rounds 1, or more")
    rows = bench.measure(args.rounds, args.peers)
    print(bench.as_json(rows) if args.json else bench.as_text(rows))
    return 0


def _warm(args: argparse.Namespace) -> int:
    for kernel in image.kernels():
        start = time.perf_counter()
        with Lab(kernel=kernel) as lab:
            print(f"{kernel}: Linux {lab.machine.image.release} is ready ({lab.machine.accel}, "
                  f"{time.perf_counter() - start:.2f} s)")
            places.find(lab.machine.image, *MAIN_STEPS, lacking=True)     # the first film need not wait for it
    return 0


def _picture(args: argparse.Namespace) -> int:
    try:
        Path(args.file).write_text(the_call().svg())
    except OSError as e:
        raise PvmlabError(f"cannot write {args.file}", str(e), "name a file in a directory you may write to") from e
    return 0


def _site(args: argparse.Namespace) -> int:
    from .lesson import publish     # nbconvert takes a second to load
    print(f"the course begins at {publish.site(Path(args.folder))}")
    return 0


def _review(args: argparse.Namespace) -> int:
    from .lesson import publish
    print(f"the verdicts are in {publish.review(Path(args.file))}")
    return 0


def _screenshots(args: argparse.Namespace) -> int:
    for path in screenshots(Path(args.directory)):
        print(path)
    return 0


def _version(args: argparse.Namespace) -> int:
    print(f"pvmlab {doctor.own_version()}")
    for name, about in image.manifest()["kernels"].items():
        print(f"kernel {name}: Linux {about['release']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
