"""Studies: what they search, how they go on, and the preset that comes out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from es_rl.config_layers import load_config, resolve
from es_rl.options import OPTIONS, ConfigError
from es_rl.run import train
from es_rl.search_space import SEARCH_SPACE, Dimension, read_dimension
from es_rl.tuning import FIRST_SEED, Study, TrialEnded

SMALL: dict[str, Any] = {
    "total_steps": 3000,
    "env_kwargs": {"max_episode_steps": 50},
    "fixed": {"n_pairs": 4, "optimizer": "sgd"},
    "threads": 1,
}


def journal(folder: Path) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"))
    return optuna.load_study(study_name="es_rl", storage=optuna.storages.JournalStorage(backend))


def test_the_space_is_of_options_that_there_are() -> None:
    for dimension in SEARCH_SPACE:
        values = dimension.choices or (dimension.low, dimension.high)
        assert [OPTIONS[dimension.option].kind.check(v) for v in values] == list(values)
        assert dimension.choices or 0 < dimension.low < dimension.high
    names = [dimension.name for dimension in SEARCH_SPACE]
    assert len(set(names)) == len(names)


def test_what_is_fixed_or_does_not_apply_is_not_searched(tmp_path: Path) -> None:
    def names(folder: str, algo: str, **given: Any) -> dict[str, str]:
        with Study(str(tmp_path / folder), "Swimmer-v4", algo, **given) as study:
            return {d.name: d.describe() for d in study.dimensions}

    assert list(names("a", "nres")) == [
        "n_pairs", "unroll_length", "sigma", "optimizer", "learning_rate.clipup",
        "learning_rate.sgd",
    ]  # fmt: skip
    assert list(names("b", "fulles", fixed={"sigma": 0.1, "optimizer": "adam"})) == [
        "n_pairs", "learning_rate.adam",
    ]  # fmt: skip
    short = names("c", "pes", env_kwargs={"max_episode_steps": 60})
    assert short["unroll_length"] == "20, 50"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[TrialEnded]]:
    """A study of two sessions, the first of which was stopped in the middle of a trial."""
    folder = tmp_path_factory.mktemp("tuning") / "study"
    ended: list[TrialEnded] = []
    with Study(str(folder), "Swimmer-v4", "nres", n_seeds=2, **SMALL) as study:
        study.run(2, 1, on_trial=ended.append)
        asked = iter(range(100))
        # the first question is whether to begin; some tenths of a second later it is stopped
        study.run(5, 1, on_trial=ended.append, should_stop=lambda: next(asked) >= 2)
    with Study(str(folder), "Swimmer-v4", "nres", n_seeds=2, **SMALL) as study:
        outcome = study.run(5, 2, on_trial=ended.append)
    assert outcome.n_trials == 5
    return folder, ended


def test_a_study_goes_on_where_it_stopped(finished: tuple[Path, list[TrialEnded]]) -> None:
    folder, ended = finished
    trials = journal(folder).trials
    states = [trial.state.name for trial in trials]
    assert states.count("COMPLETE") + states.count("PRUNED") == 5
    assert set(states) <= {"COMPLETE", "PRUNED", "FAIL"}
    assert len(ended) == 5
    # what was interrupted was tried again, with the same settings and in the same folder
    for trial in trials:
        if trial.state.name == "FAIL":
            (again,) = (
                t for t in trials
                if t is not trial and t.user_attrs["folder"] == trial.user_attrs["folder"]
            )  # fmt: skip
            assert again.params == trial.params
            assert again.state.name != "FAIL"
    # no draw was made twice
    drawn = [tuple(sorted(e.settings.items())) for e in ended]
    assert len(set(drawn)) == 5


def test_a_trials_value_is_the_mean_of_its_runs(finished: tuple[Path, list[TrialEnded]]) -> None:
    from es_rl.progress import ProgressFile

    folder, ended = finished
    study = journal(folder)
    complete = [e for e in ended if e.state == "complete"]
    assert complete
    for e in complete:
        trial = study.trials[e.number]
        rewards = []
        for i in range(2):
            run = folder / trial.user_attrs["folder"] / f"seed{FIRST_SEED + i}"
            config, _ = load_config(run / "config.yaml")
            assert config.seed == FIRST_SEED + i
            assert {name: getattr(config, name) for name in e.settings} == e.settings
            rewards.append(ProgressFile.read(str(run / "progress.csv"))[-1].eval_reward_mean)
        assert e.value == pytest.approx(sum(rewards) / 2)  # type: ignore[arg-type]
        assert trial.value == e.value
        assert len(trial.intermediate_values) > 5


def test_the_preset_trains_what_the_best_trial_trained(
    finished: tuple[Path, list[TrialEnded]], tmp_path: Path
) -> None:
    folder, ended = finished
    best = max((e for e in ended if e.value is not None), key=lambda e: e.value or 0.0)
    given = {"env": "Swimmer-v4", "algo": "nres"}
    resolved = resolve({**given, "seed": FIRST_SEED}, preset=str(folder / "preset.yaml"))
    config = resolved.config
    assert {name: getattr(config, name) for name in best.settings} == best.settings
    assert (config.n_pairs, config.optimizer, config.lr_schedule) == (4, "sgd", "constant")
    assert config.total_steps == 3000
    assert config.updates is None
    result = train(config, str(tmp_path / "run"))
    trial = journal(folder).trials[best.number]
    run = folder / trial.user_attrs["folder"] / f"seed{FIRST_SEED}"
    assert (tmp_path / "run" / "policy.npz").read_bytes() == (run / "policy.npz").read_bytes()
    assert result.total_steps >= 3000
    # without a seed it trains on one that the search has not seen
    assert resolve(given, preset=str(folder / "preset.yaml")).config.seed < FIRST_SEED
    assert f"trial {best.number} " in (folder / "preset.yaml").read_text()
    # what concerns the machine and not the settings is not in it
    (entry,) = yaml.safe_load((folder / "preset.yaml").read_text()).values()
    assert {n for n in entry if OPTIONS[n].resumable} == {"total_steps"}
    assert not {"env", "algo", "seed", "engine", "eval_every", "eval_episodes"} & set(entry)


def test_a_finished_study_trains_nothing(finished: tuple[Path, list[TrialEnded]]) -> None:
    folder, _ = finished
    before = sorted(os.listdir(folder))
    ended: list[TrialEnded] = []
    with Study(str(folder), "Swimmer-v4", "nres", n_seeds=2, **SMALL) as study:
        outcome = study.run(5, 1, on_trial=ended.append)
    assert (outcome.n_trials, ended) == (5, [])
    assert sorted(os.listdir(folder)) == before


def test_another_study_is_not_mixed_in(finished: tuple[Path, list[TrialEnded]]) -> None:
    folder, _ = finished
    for changed, reason in (
        ({"total_steps": 4000}, r"another total steps \(3000\)"),
        ({"n_seeds": 1}, r"another n seeds \(2\)"),
        ({"fixed": {"n_pairs": 5, "optimizer": "sgd"}}, "another fixed"),
    ):
        given = {"n_seeds": 2, **SMALL, **changed}
        with pytest.raises(ConfigError, match=rf"--study .*{reason}"):
            Study(str(folder), "Swimmer-v4", "nres", **given)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="another algo"):
        Study(str(folder), "Swimmer-v4", "pes", n_seeds=2, **SMALL)
    with (
        Study(str(folder), "Swimmer-v4", "nres", n_seeds=2, **SMALL),
        pytest.raises(ConfigError, match=r"--study .*another process"),
    ):
        Study(str(folder), "Swimmer-v4", "nres", n_seeds=2, **SMALL)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"--study .*: holds other files and no study"):
        Study(str(tmp_path), "Swimmer-v4", "nres")
    assert os.listdir(tmp_path) == ["letter.txt"]


def test_bad_trials_are_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "optuna.pruners.MedianPruner",
        lambda **_: optuna.pruners.ThresholdPruner(lower=1e9, n_warmup_steps=2),
    )
    ended: list[TrialEnded] = []
    given = {**SMALL, "total_steps": 60_000}
    with Study(str(tmp_path / "study"), "Swimmer-v4", "nres", **given) as study:
        outcome = study.run(1, 1, on_trial=ended.append)
    assert [e.state for e in ended] == ["pruned"]
    assert (outcome.n_trials, outcome.preset) == (1, None)
    (run,) = (tmp_path / "study" / "trial-0000").iterdir()
    from es_rl.progress import ProgressFile

    rows = ProgressFile.read(str(run / "progress.csv"))
    assert 0.1 * 60_000 < rows[-1].total_steps < 0.9 * 60_000


def test_a_reward_of_zero_is_better_than_a_negative_one(tmp_path: Path) -> None:
    with Study(str(tmp_path / "study"), "Swimmer-v4", "nres", **SMALL) as study:
        made = journal(tmp_path / "study")
        settings = {"unroll_length": 20, "sigma": 0.1, "learning_rate": 1.0}
        for value in (-1.0, 0.0, -2.0):
            made.add_trial(
                optuna.trial.create_trial(value=value, user_attrs={"settings": settings})
            )
        outcome = study.run(3, 1)
    assert (outcome.best_number, outcome.best_value) == (1, 0.0)


def test_settings_that_diverge_count_as_bad(tmp_path: Path) -> None:
    given = {**SMALL, "fixed": {**SMALL["fixed"], "sigma": 1e308}}
    ended: list[TrialEnded] = []
    with Study(str(tmp_path / "study"), "Swimmer-v4", "nres", **given) as study:
        study.run(1, 1, on_trial=ended.append)
    assert [e.state for e in ended] == ["failed"]
    assert ended[0].error is not None
    (trial,) = journal(tmp_path / "study").trials
    assert trial.state.name == "PRUNED"
    assert trial.user_attrs["error"] == ended[0].error


@pytest.mark.parametrize(
    ("word", "dimension"),
    [
        ("sigma=0.05:0.5", Dimension("sigma", low=0.05, high=0.5)),
        ("n-pairs=8,16", Dimension("n_pairs", (8, 16))),
        ("bias=true,false", Dimension("bias", (True, False))),
        ("lr_schedule=constant;piecewise:5=2,9=1",
         Dimension("lr_schedule", ("constant", "piecewise:5=2,9=1"))),
    ],
)  # fmt: skip
def test_a_direction_is_read_as_the_command_line_writes_it(word: str, dimension: Dimension) -> None:
    assert read_dimension(word) == dimension


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("sigma", "write OPTION=LOW:HIGH or OPTION=A,B,C"),
        ("sigmo=1:2", "no such option; did you mean sigma"),
        ("sigma=2:1", "the lower one first"),
        ("sigma=0:1", "--sigma 0: must be a positive number"),
        ("n_pairs=8", "at least two different values"),
        ("n_pairs=8,8", "at least two different values"),
        ("n_pairs=8,x", "--n-pairs x: must be a positive integer"),
    ],
)
def test_a_direction_that_cannot_be_read_is_refused(word: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_dimension(word)


def test_chosen_directions_replace_the_usual_ones(tmp_path: Path) -> None:
    chosen = [read_dimension(w) for w in ("horizon=50,70", "learning_rate=0.1:0.2", "n_pairs=2,3")]
    with Study(str(tmp_path / "a"), "Swimmer-v4", "nres", searched=chosen) as study:
        assert {d.name: d.describe() for d in study.dimensions} == {
            "horizon": "50, 70", "learning_rate": "0.1 to 0.2, logarithmic", "n_pairs": "2, 3",
            "unroll_length": "20, 50", "sigma": "0.01 to 0.5, logarithmic",
            "optimizer": "clipup, sgd",
        }  # fmt: skip


def test_a_schedule_is_searched_beside_a_rate(tmp_path: Path) -> None:
    words = ("lr_schedule=linear:5:0.1;linear:9:0.1", "learning_rate=0.1:0.2")
    chosen = [read_dimension(word) for word in words]
    with Study(str(tmp_path), "Swimmer-v4", "nres", searched=chosen, **SMALL) as study:
        study.run(1, 1)
    (trial,) = journal(tmp_path).trials
    config, _ = load_config(tmp_path / "trial-0000" / f"seed{FIRST_SEED}" / "config.yaml")
    assert config.lr_schedule == trial.params["lr_schedule"]
    assert config.lr_schedule in ("linear:5:0.1", "linear:9:0.1")


@pytest.mark.parametrize(
    ("algo", "fixed", "words", "reason"),
    [
        ("nres", {"sigma": 0.1}, ["sigma=0.1:0.2"], "has a fixed value as well"),
        ("nres", {}, ["sigma=0.1:0.2", "sigma=0.1,0.2"], "is given twice"),
        ("fulles", {}, ["unroll_length=20,50"], "does not apply to --algo fulles"),
    ],
)
def test_directions_that_contradict_the_rest_are_refused(
    tmp_path: Path, algo: str, fixed: dict[str, Any], words: list[str], reason: str
) -> None:
    searched = [read_dimension(word) for word in words]
    with pytest.raises(ConfigError, match=reason):
        Study(str(tmp_path / "a"), "Swimmer-v4", algo, fixed=fixed, searched=searched)
