"""The searches of the control presets: what is to be searched, what came out, what became of it."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from waiting import within

from es_rl.cli.settings import read_settings
from es_rl.config_layers import resolve
from es_rl.search_space import read_dimension
from es_rl.tuning import Study

SCRIPTS = Path(__file__).parent.parent / "scripts"
FOUND = SCRIPTS / "tuning" / "found"
RESULTS = sorted(FOUND.glob("*/*.json"))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import the program as it is imported when it is run."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module("tune_control")
    for name in ("tune_control", "results"):
        sys.modules.pop(name, None)


def after(words: list[str], option: str) -> list[str]:
    return [value for word, value in itertools.pairwise(words) if word == option]


def test_every_search_can_begin(script: ModuleType, tmp_path: Path) -> None:
    for search in script.load_searches():
        study = tmp_path / search.task / search.method
        words = search.command(study)
        (algo,) = after(words, "--algo")
        fixed, own = read_settings(after(words, "--set"), [algo])
        opened = Study(
            str(study), search.task, algo, fixed={**fixed, **own.get(algo, {})},
            searched=[read_dimension(word) for word in after(words, "--search")],
        )  # fmt: skip
        with opened:
            names = {dimension.option for dimension in opened.dimensions}
        assert names == set(search.about["search"]), words


def test_a_methods_own_settings_go_over_its_tasks(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "searches.yaml"
    file.write_text(
        "T-v0:\n  trials: 3\n  seeds: 2\n  total_steps: 10\n"
        "  set: {shaping: std, clip_actions: true}\n  search: {sigma: '1:2'}\n"
        "  methods:\n    nres:\n    ars-mlp: {trials: 4, set: {shaping: null, hidden: [3, 4]}}\n"
        "    nres-parallel: {set: {n_pairs: 7}}\n"
    )
    monkeypatch.setattr(script, "SEARCHES", file)
    nres, ars, parallel = (shlex.join(s.command(Path("S"))) for s in script.load_searches())
    assert nres == (
        "es-rl tune T-v0 --algo nres --study S --trials 3 --seeds 2 --total-steps 10 "
        "--set shaping=std --set clip_actions=true --search sigma=1:2"
    )
    assert ars == (
        "es-rl tune T-v0 --algo ars --study S --trials 4 --seeds 2 --total-steps 10 "
        "--set clip_actions=true --set hidden=3,4 --set policy=mlp --search sigma=1:2"
    )
    assert parallel == nres.replace(" --search", " --set n_pairs=7 --search")


def test_what_was_found_is_of_the_searches_that_are_listed(script: ModuleType) -> None:
    listed = {(s.task, s.method): shlex.join(s.command(Path("STUDY")))
              for s in script.load_searches()}  # fmt: skip
    assert RESULTS
    for path in RESULTS:
        found = json.loads(path.read_text(encoding="utf-8"))
        assert found["command"] == listed[path.parent.name, path.stem], path


def test_a_search_that_fails_keeps_nothing(tmp_path: Path) -> None:
    study = tmp_path / "studies" / "InvertedPendulum-v4" / "pes"
    study.mkdir(parents=True)
    (study / "other.txt").write_text("not a study")
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "tune_control.py"), "--out", str(tmp_path / "found"),
         "--studies", str(tmp_path / "studies"), "--tasks", "InvertedPendulum-v4",
         "--methods", "pes"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert "holds other files and no study" in done.stderr
    assert not (tmp_path / "found").exists()


def _is_running(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_search_that_is_told_to_stop_leaves_nothing_running(tmp_path: Path) -> None:
    searches = tmp_path / "searches.yaml"
    searches.write_text(
        "InvertedPendulum-v4:\n  trials: 5000\n  seeds: 1\n  total_steps: 400\n"
        "  search: {sigma: '0.01:0.1'}\n  methods: {pes: }\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import pathlib, tune_control as t; "
        f"t.SEARCHES = pathlib.Path({str(searches)!r}); t.main()"
    )
    words = ["--out", str(tmp_path / "found"), "--studies", str(tmp_path / "S"), "--jobs", "1"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        try:
            said = []
            while not said or said[-1][:6] not in ("", "trial "):
                said.append(process.stderr.readline())
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=300) == 128 + signal.SIGTERM, said
            within(60, lambda: not _is_running(process.pid))  # its helpers end a moment after it
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_presets_have_what_was_found(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    algo, _, kind = path.stem.partition("-")
    given = {"env": path.parent.name, "algo": algo, **({"policy": kind} if kind == "mlp" else {})}
    named = f"{kind}-{path.parent.name}" if kind not in ("", "mlp") else None
    preset = resolve(given, preset=named).config.to_dict()
    fixed, _ = read_settings(after(shlex.split(found["command"]), "--set"), [algo])
    fixed.pop("lr_schedule", None)  # stretched to the preset's budget
    wanted = {name: list(v) if isinstance(v, tuple) else v for name, v in fixed.items()}
    wanted |= found["best_settings"]
    assert {name: preset[name] for name in wanted} == wanted
