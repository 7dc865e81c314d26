"""The subcommands around a run, by what they print, write and refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from command_line import Run
from made_runs import make_run
from PIL import Image

from es_rl import LinearPolicy, load_policy
from es_rl.config_layers import load_config
from es_rl.envs.making import make_env
from es_rl.progress import ProgressFile

SMALL = [
    "train",
    "Swimmer-v4",
    "--algo",
    "nres",
    "--n-pairs",
    "3",
    "--unroll-length",
    "15",
    "--eval-every",
    "3",
    "--eval-episodes",
    "2",
    "--env-kwargs",
    "max_episode_steps=50",
    "--updates",
    "6",
    "--quiet",
]


@pytest.fixture
def policy(tmp_path: Path) -> Callable[[str], str]:
    """Save a policy for an environment and return its file's name."""

    def save(env_id: str, **env_kwargs: Any) -> str:
        env = make_env(env_id, **env_kwargs)
        made = LinearPolicy(env.observation_space, env.action_space)
        env.close()
        made.theta = -np.random.default_rng(0).normal(0, 1, made.num_params)
        made.save(tmp_path / f"{env_id}.npz", env=env_id, env_kwargs=env_kwargs)
        return f"{env_id}.npz"

    return save


def test_resume_goes_on_with_a_larger_budget(run: Run) -> None:
    run(*SMALL, "--run-dir", "run")
    outcome = run("resume", "run", "--updates", "9", "--quiet")
    assert (outcome.code, outcome.out) == (0, "run\n"), outcome.err
    assert len(ProgressFile.read("run/progress.csv")) == 9
    assert load_config("run/config.yaml")[0].updates == 9
    run(*SMALL, "--run-dir", "whole", "--updates", "9")
    assert Path("run/policy.npz").read_bytes() == Path("whole/policy.npz").read_bytes()


def test_evaluate_several(run: Run, policy: Any) -> None:
    names = [policy("Swimmer-v4", max_episode_steps=40), policy("CartPole-v1")]
    alone = [json.loads(run("evaluate", n, "--episodes", "2", "--json").out) for n in names]
    together = run("evaluate", *names, "--episodes", "2", "--json")
    assert json.loads(together.out) == alone
    lines = run("evaluate", *names, "--episodes", "2").out.splitlines()
    assert lines[0].split() == ["policy", "environment", "update", "reward", "lowest", "highest",
                                "steps"]  # fmt: skip
    for line, name, facts in zip(lines[1:3], names, alone, strict=True):
        words = line.split()
        assert words[:2] == [name, facts["env"]]
        digits = 1 if abs(facts["reward_mean"]) >= 10 else 3
        assert words[3] == f"{facts['reward_mean']:.{digits}f}"
        assert words[-1] == f"{np.mean(facts['lengths']):.0f}"


def test_record_writes_a_video(run: Run, policy: Any) -> None:
    name = policy("CartPole-v1")
    facts = json.loads(run("evaluate", name, "--episodes", "2", "--seed", "5", "--json").out)
    outcome = run("record", name, "-o", "v.gif", "--episodes", "2", "--seed", "5", "--fps", "25",
                  "--size", "90x60")  # fmt: skip
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    steps = sum(facts["lengths"])
    assert lines[0] == f"v.gif: {steps + 2} pictures of 90x60, {(steps + 2) / 25:.1f} s"
    for i in range(2):
        assert lines[1 + i].startswith(f"episode {i + 1} (seed {5 + i}): reward ")
        assert lines[1 + i].endswith(f"{facts['lengths'][i]} steps")
    with Image.open("v.gif") as image:
        assert (image.n_frames, image.size) == (steps + 2, (90, 60))  # type: ignore[attr-defined]


def test_enjoy_writes_a_video_or_opens_a_window(
    run: Run, policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = policy("CartPole-v1")
    assert run("enjoy", name, "--video", "v.gif").code == 0
    with Image.open("v.gif") as image:
        assert image.n_frames > 3  # type: ignore[attr-defined]
    for variable in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(variable, raising=False)
    if sys.platform.startswith("linux"):
        refused = run("enjoy", name)
        assert refused.code == 2
        assert refused.err == (
            "error: enjoy: there is no display to open a window on; add --video FILE.mp4\n"
        )
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")  # a window that nobody sees
    shown = run("enjoy", name, "--seed", "5")
    assert shown.code == 0, shown.err
    facts = json.loads(run("evaluate", name, "--episodes", "1", "--seed", "5", "--json").out)
    assert f"{facts['lengths'][0]} steps" in shown.out


def test_export_writes_what_predicts_alike(run: Run, policy: Any) -> None:
    name = policy("Swimmer-v4")
    outcome = run("export", name, "-o", "p.onnx", "--json")
    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out)
    assert (facts["file"], facts["format"]) == ("p.onnx", "onnx")
    assert (facts["input_shape"], facts["action_shape"]) == ([8], [2])
    x = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    (actions,) = onnxruntime.InferenceSession("p.onnx").run(None, {"observation": x})
    np.testing.assert_allclose(actions, load_policy(name).predict(x)[0], rtol=1e-5, atol=1e-5)
    assert run("export", name, "-o", "p.any", "--format", "npz").code == 0
    assert np.load("p.any")["weight_0"].shape == (2, 8)
    assert "observation (batch, 8) → action (batch, 2)" in run("export", name, "-o", "p.pt").out


def test_plot_draws_runs_by_label_and_folder(run: Run, tmp_path: Path) -> None:
    for seed in range(3):
        make_run(tmp_path / f"runs/a{seed}", [seed, 9.0], [100, 200], seed=seed)
        make_run(tmp_path / f"more/b{seed}", [2.0, 1.0], [100, 200], seed=seed, algo="tes")
    make_run(tmp_path / "runs/again", [1.0], [100], seed=2)
    outcome = run("plot", "runs", "biased=more", "-x", "sequential,total", "-o", "p.svg")
    assert (outcome.code, outcome.out) == (0, "p.svg\n"), outcome.err
    assert outcome.err == "note: runs/again repeats seed 2 of runs/a2: left out\n"
    drawn = Path("p.svg").read_text()
    assert "<!-- biased -->" in drawn
    assert "<!-- nres -->" in drawn
    assert "<!-- threshold 360 -->" in drawn  # Gymnasium's own for Swimmer-v4
    assert "<!-- mean of 3 seeds, 95 % bootstrap interval -->" in drawn
    assert run("plot", "runs", "-o", "r.svg", "--each-run").code == 0
    assert "<!-- mean of 3 seeds, 95 % bootstrap interval; thin: each run -->" in (
        Path("r.svg").read_text()
    )
    run("plot", "runs/a0", "-o", "q.svg", "--threshold", "5", "--threshold", "7.5")
    other = Path("q.svg").read_text()
    assert "<!-- threshold 7.5 -->" in other
    assert "<!-- threshold 360 -->" not in other
    run("plot", "runs/a0", "-o", "q.svg", "--threshold", "none")
    assert "threshold" not in Path("q.svg").read_text()


COMPARE = [
    "compare",
    "Swimmer-v4",
    "--algos",
    "nres,fulles",
    "--seeds",
    "3,4",
    "--total-steps",
    "2500",
    "--n-pairs",
    "10",
    "--unroll-length",
    "10",
    "--eval-every",
    "4",
    "--env-kwargs",
    "max_episode_steps=50",
    "--set",
    "eval_episodes=1",
    "--threshold",
    "-1000",
    "--threshold",
    "1e6",
    "--jobs",
    "2",
]


def test_compare_ends_with_a_table_and_a_plot_and_repeats_nothing(run: Run) -> None:
    first = run(*COMPARE)
    assert first.code == 0, first.err
    folder = Path("runs/compare-Swimmer-v4")
    assert {p.name for p in folder.iterdir()} == {
        "nres-seed3", "nres-seed4", "fulles-seed3", "fulles-seed4", "comparison.png",
    }  # fmt: skip
    with Image.open(folder / "comparison.png") as image:
        assert image.size[0] > 500
    table = first.out[first.out.index("algorithm") :].splitlines()
    assert table[1].split()[:5] == ["nres", "10", "200", "2", "of"]
    assert table[2].split()[:5] == ["fulles", "2", "200", "2", "of"]
    again = run(*COMPARE, "--json")
    assert again.code == 0, again.err
    facts = json.loads(again.out)
    assert "4 of 4 · " in again.err
    assert [a["algo"] for a in facts["algorithms"]] == ["nres", "fulles"]
    for entry in facts["algorithms"]:
        rows = [ProgressFile.read(str(folder / f"{entry['algo']}-seed{s}" / "progress.csv"))
                for s in (3, 4)]  # fmt: skip
        finals = [r[-1].eval_reward_mean or 0.0 for r in rows]
        assert entry["final"] == pytest.approx(np.mean(finals))
        starts = [next(r for r in run if r.eval_reward_mean is not None) for run in rows]
        there, never = entry["reached"]
        assert there["total"] == np.median([row.total_steps for row in starts])
        assert there["sequential"] == np.median([row.sequential_steps for row in starts])
        assert (there["n_runs"], never["n_runs"], never["total"]) == (2, 0, None)
    assert facts["plot"] == str(folder / "comparison.png")


TUNE = [
    "tune",
    "Swimmer-v4",
    "--algo",
    "pes",
    "--total-steps",
    "2000",
    "--env-kwargs",
    "max_episode_steps=50",
    "--set",
    "n-pairs=3",
    "--jobs",
    "1",
    "--study",
    "study",
]


def test_tune_goes_on_and_ends_in_a_preset_that_trains(run: Run) -> None:
    first = run(*TUNE, "--trials", "1")
    assert first.code == 0, first.err
    second = run(*TUNE, "--trials", "2")
    assert second.code == 0, second.err
    assert [line for line in first.out.splitlines() if line.startswith("trial ")] != []
    assert "2 trials so far" in second.out
    last = second.out.splitlines()[-1].split()
    assert last[:2] == ["es-rl", "train"]
    third = run(*TUNE, "--trials", "2", "--json")
    told = json.loads(third.out)
    assert (told["algo"], told["n_trials"], told["study"]) == ("pes", 2, "study")
    assert f"best: trial {told['best_number']}, " in second.out
    assert told["preset"] == "study/preset.yaml"
    assert set(told["best_settings"]) >= {"unroll_length", "sigma", "learning_rate"}
    assert "n_pairs" not in told["best_settings"]
    trained = run(*last[1:], "--quiet", "--run-dir", "run", "--eval-episodes", "1")
    assert trained.code == 0, trained.err
    config, about = load_config("run/config.yaml")
    assert (config.algo, config.n_pairs, config.total_steps) == ("pes", 3, 2000)
    assert about["preset"] == "study/preset.yaml: Swimmer-v4"


ERRORS = {
    # what is typed: how the one line begins, and what it must say
    ("resume", "none"): ("RUN none: holds no run", "config.yaml"),
    ("resume", "run", "--updates", "x"): ("--updates x: ", "positive integer"),
    ("evaluate", "p.npz", "none"): ("RUN_OR_POLICY none: ", "no such folder or file"),
    ("record", "p.npz", "-o", "v.avi"): ("-o v.avi: ", ".mp4, .gif"),
    ("record", "p.npz", "-o", "v.mp4", "--size", "31x20"): ("--size 31x20: mp4", "32x20"),
    ("record", "p.npz", "-o", "v.mp4", "--size", "big"): ("--size big: ", "such as 640x480"),
    ("record", "p.npz", "-o", "v.mp4", "--steps", "0"): ("--steps 0: ", "positive integer"),
    ("record", "p.npz", "-o", "no/v.mp4"): ("-o no/v.mp4: cannot write", "folder no"),
    ("record", "p.npz", "-o", "v.gif", "--fps", "-1"): ("--fps -1: ", "positive number"),
    ("enjoy", "none"): ("RUN_OR_POLICY none: ", "no such folder or file"),
    ("enjoy", "p.npz", "--video", "v.txt"): ("--video v.txt: ", ".mp4, .gif"),
    ("export", "p.npz", "-o", "p.tflite"): ("-o p.tflite: ", "give --format"),
    ("export", "p.npz", "-o", "p.npz"): ("-o p.npz: is the policy itself", "another file"),
    ("export", "p.npz", "-o", "p", "--format", "onyx"): ("--format onyx: ", "mean onnx?"),
    ("export", "p.npz", "-o", "no/p.pt"): ("-o no/p.pt: ", "no folder no"),
    ("plot", "none"): ("RUNS none: ", "no such folder"),
    ("plot", "."): ("RUNS .: holds no run", "config.yaml"),
    ("plot", "run", "-x", "steps"): ("-x steps: ", "total, sequential, time"),
    ("plot", "run", "-o", "a.jpg"): ("-o a.jpg: ", ".png, .svg, .pdf"),
    ("plot", "run", "--confidence", "95"): ("--confidence 95: ", "between 0 and 1"),
    ("plot", "run", "--threshold", "high"): ("--threshold high: ", "finite number"),
    ("compare", "Swimer-v4"): ("ENV Swimer-v4: no such env", "mean Swimmer-v4"),
    ("compare", "Swimmer-v4", "--algos", "nres,pse"): ("--algos pse: ", "mean pes?"),
    ("compare", "Swimmer-v4", "--seeds", "1,1"): ("--seeds 1,1: ", "twice"),
    ("compare", "Swimmer-v4", "--n-pairs", "7"): ("--n-pairs 7: for equal", "multiple of 30"),
    ("compare", "Swimmer-v4", "--set", "sigma"): ("--set sigma: ", "OPTION=VALUE"),
    ("compare", "Swimmer-v4", "--set", "sigm=1"): ("--set sigm=1: no such", "mean sigma?"),
    ("compare", "Swimmer-v4", "--set", "gpes.sigma=1"): ("--set gpes.sigma=1: ", "not among"),
    ("compare", "Swimmer-v4", "--set", "seed=1"): ("--set seed=1: ", "decided"),
    ("compare", "Swimmer-v4", "--preset", "tes=none"): ("--preset none: no such", "--algo tes"),
    ("tune", "Swimmer-v4", "--algo", "es"): ("--algo es: ", "choose one of"),
    ("tune", "Swimmer-v4", "--trials", "0"): ("--trials 0: ", "positive integer"),
    ("tune", "Swimmer-v4", "--set", "updates=3"): ("--set updates=3: ", "own option"),
}


@pytest.mark.parametrize("words", ERRORS, ids=" ".join)
def test_a_mistake_gets_one_line_and_exit_code_2(
    run: Run, policy: Any, words: tuple[str, ...], tmp_path: Path
) -> None:
    os.rename(policy("CartPole-v1"), "p.npz")
    begins, says = ERRORS[words]
    if words[:2] in (("resume", "run"), ("plot", "run")):
        make_run(tmp_path / "run", [1.0], [10])
    before = sorted(os.listdir())
    outcome = run(*words)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith(f"error: {begins}"), outcome.err
    assert says in outcome.err
    assert outcome.err.count("\n") == 1
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("words", "module", "extra"),
    [
        (("plot", "run"), "matplotlib", "plot"),
        (("plot", "run"), "scipy", "plot"),
        (("compare", "Swimmer-v4"), "matplotlib", "plot"),
        (("tune", "Swimmer-v4"), "optuna", "tune"),
        (("record", "p.npz", "-o", "v.mp4"), "imageio_ffmpeg", "video"),
        (("export", "p.npz", "-o", "p.onnx"), "onnx", "onnx"),
    ],
)
def test_a_missing_extra_is_named_before_any_work(
    run: Run, policy: Any, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], module: str,
    extra: str,
) -> None:  # fmt: skip
    from es_rl.cli import extras

    os.rename(policy("CartPole-v1"), "p.npz")
    found = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == module else found(name))
    outcome = run(*words)
    assert outcome.code == 2
    assert f"needs {module}, which is not installed" in outcome.err
    assert outcome.err.endswith(f"run: pip install 'es_rl[{extra}]'\n")
    assert os.listdir() == ["p.npz"]


# what needs a process of its own


def test_recording_asks_for_a_headless_gl_before_mujoco_is_loaded(
    policy: Any, tmp_path: Path
) -> None:
    code = (
        "import sys, es_rl.headless as h\n"
        "def ask():\n"
        "    print('mujoco' in sys.modules)\n"
        "    raise SystemExit(0)\n"
        "h.use_headless_gl = ask\n"
        "from es_rl.cli.main import main\n"
        "main()"
    )
    name = policy("Swimmer-v4")
    done = subprocess.run(
        [sys.executable, "-c", code, "record", name, "-o", "v.mp4"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("re", {"resume", "record"}), ("e", {"evaluate", "enjoy", "export", "envs"})],
)
def test_the_shell_completes_subcommands(typed: str, offered: set[str]) -> None:
    program = Path(sys.executable).with_name("es-rl")
    environment = {**os.environ, "_ES_RL_COMPLETE": "complete_bash", "COMP_CWORD": "1",
                   "COMP_WORDS": f"es-rl {typed}"}  # fmt: skip
    done = subprocess.run(
        [program], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert set(done.stdout.split()) == offered
