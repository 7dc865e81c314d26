"""The papers' figures and tables, computed again: CSV, PNG and a verdict on each claim.

    python scripts/reproduce.py --list
    python scripts/reproduce.py lorenz-surface
    python scripts/reproduce.py all --quick

What was computed is stored and not computed again, so that an interrupted command goes on.
"""

from __future__ import annotations

import argparse
import os
import sys

from reproductions.publication import page_of, publish
from reproductions.registry import Figure, choose, find_figures
from reproductions.report import Report, verdict_table

from es_rl.perturbations import usable_cpus

DOCS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "docs")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help="figures by name, or all")
    parser.add_argument("--list", action="store_true", help="list the figures and end")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="seconds: to see that it works")
    size.add_argument("--full", action="store_true", help="the paper's size: up to hours")
    parser.add_argument("--seeds", type=_positive, metavar="N", help="seeds to report")
    parser.add_argument("--out", default=os.path.join("runs", "reproductions"), metavar="DIR")
    parser.add_argument(
        "--jobs", type=_positive, metavar="N",
        help="processes; default: one a processor, and one alone with --quick",
    )  # fmt: skip
    parser.add_argument("--fresh", action="store_true", help="compute again what is stored")
    parser.add_argument(
        "--publish", action="store_true", help="put pictures and verdicts into docs/"
    )
    options = parser.parse_args()
    figures = find_figures()
    if options.list:
        for figure in figures.values():
            print(f"{figure.name:32s} {figure.title}")
        return 0
    if not options.figures:
        parser.error("name a figure, or all; --list tells which there are")
    if options.publish and options.quick:
        parser.error("--publish --quick: a quick run is too small to be published")
    try:
        chosen = choose(options.figures, figures)
        if options.publish:  # hours may pass before there is anything to publish
            for figure in chosen:
                page_of(DOCS, figure.name)
    except ValueError as error:
        parser.error(str(error))
    chosen_size = "quick" if options.quick else "full" if options.full else "default"
    jobs = options.jobs or (1 if options.quick else usable_cpus())
    for figure in chosen:
        _make(figure, chosen_size, jobs, options)
    return 0


def _make(figure: Figure, size: str, n_jobs: int, options: argparse.Namespace) -> None:
    print(f"{figure.name}: {figure.title}", flush=True)
    n_seeds = options.seeds or getattr(figure.seeds, size)
    folder = os.path.join(options.out, figure.name, size)
    report = Report(figure.name, size, n_seeds, folder, n_jobs=n_jobs, fresh=options.fresh)
    figure.make(report)
    verdicts = report.finish()
    print(f"\n{verdict_table(verdicts)}\n\nfiles: {folder}", flush=True)
    if options.publish:
        print(f"published: {publish(DOCS, report)}")
    print(flush=True)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
