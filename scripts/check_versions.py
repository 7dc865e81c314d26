"""Test the library with the oldest, or the newest, versions that setup.cfg allows.

    python scripts/check_versions.py oldest
    python scripts/check_versions.py newest --python python3.13 --without stable-baselines3

A wheel is built and installed, with those versions of what it requires, in a fresh virtual
environment of the given Python; the tests run on it from a copy of tests/ elsewhere. Whatever is
left out by --without is not installed, nor are tests run that need it.
"""

from __future__ import annotations

import argparse
import configparser
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDS = {
    "stable-baselines3": r"^\s*(from|import) "
    r"(torch|stable_baselines3|es_rl\.agents|agents_toys|toy_tasks|systems_torch)"
    r"|import torch|es_rl\.export|\"export\"",
    "the repository": r"scripts|README|ROOT",
    "matplotlib": r"plotting|matplotlib|test_comparison|es_rl\.comparison|RunPool|test_pictures",
    "scipy": r"es_rl\.curves|\bscipy|test_pictures",
    "scikit-learn": r"sklearn|\"digits\"|learned-optimizer|hyperparameter-tuning",
    "imageio-ffmpeg": r"imageio|es_rl\.recording|\"record\"",
    "onnx": r"\bonnx|es_rl\.export",
    "optuna": r"\boptuna|es_rl\.tuning",
    "hypothesis": r"\bhypothesis\b",
}
"""What a test file has in it that needs a package beyond those of the core."""
BESIDES = ("pytest", "hypothesis")
LEFT_BEHIND = (".git", "*.egg-info", ".venv", "build", "dist", "runs")


def requirements() -> list[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config["options"]["install_requires"].split()


def oldest(requirement: str) -> str:
    """gymnasium[mujoco]>=1.1,<2 becomes gymnasium[mujoco]==1.1."""
    name, version = re.fullmatch(r"([\w.\[\]-]+)>=([\w.]+)(?:,.*)?", requirement).groups()
    return f"{name}=={version}"


def tests(available: set[str]) -> list[str]:
    """The test files that need nothing but what is there."""
    chosen = []
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        text = path.read_text()
        if all(
            name in available or not re.search(p, text, re.MULTILINE) for name, p in NEEDS.items()
        ):
            chosen.append(path.name)
    return chosen


def run(*words: object, **options: object) -> None:
    print("$", " ".join(map(str, words)), flush=True)
    subprocess.run([str(word) for word in words], check=True, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("end", choices=("oldest", "newest"))
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--without", nargs="*", default=[], metavar="PACKAGE")
    parser.add_argument("--extra", nargs="*", default=[], metavar="REQUIREMENT")
    parser.add_argument("--only", metavar="EXPRESSION", help="as pytest's -k")
    parser.add_argument("--keep", metavar="FOLDER", help="make the environment here and keep it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        folder = Path(args.keep) if args.keep else work / "venv"
        python = folder / "bin" / "python"
        if not python.exists():
            run(args.python, "-m", "venv", folder)
        wanted = [r for r in requirements() if not any(r.startswith(w) for w in args.without)]
        if args.end == "oldest":
            wanted = [oldest(r) for r in wanted]
        run(python, "-m", "pip", "install", "-q", "-U", "pip")
        run(python, "-m", "pip", "install", "-q", *wanted, *BESIDES, *args.extra)
        # built from a copy: a build leaves its traces beside the sources
        shutil.copytree(ROOT, work / "source", ignore=shutil.ignore_patterns(*LEFT_BEHIND))
        run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", work, work / "source")
        (wheel,) = work.glob("*.whl")
        run(python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", wheel)
        run(python, "-m", "pip", "list")
        shutil.copytree(ROOT / "tests", work / "tests")
        available = {re.split(r"[\[<>=]", name)[0] for name in (*wanted, *BESIDES, *args.extra)}
        chosen = tests(available)
        print(f"{len(chosen)} of {len(tests(set(NEEDS)))} test files need nothing else", flush=True)
        words = ["-k", args.only] if args.only else []
        run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words, *chosen,
            cwd=work / "tests")  # fmt: skip


if __name__ == "__main__":
    main()
