"""Saved agents: nothing is lost, training goes on exactly, and no code comes out of a file."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import sys
import zipfile
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from agents_toys import DRIFT, SWIMMER, Drift
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule

import es_rl
from es_rl.agents import AGENTS, NRES, PES, LinearPolicy
from es_rl.agents.saving import NotStorableError, decode_value, encode_value
from es_rl.envs.faults import NotReproducibleError
from es_rl.files import sealed


class StopAt(BaseCallback):
    """Stops training at the first window that reaches a number of steps."""

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        self.limit = timesteps

    def _on_step(self) -> bool:
        return self.num_timesteps < self.limit


def make_agent(algorithm: str = "nres", env: Any = "Swimmer-v5", **changes: Any) -> Any:
    options = {**SWIMMER, **changes}
    if algorithm in ("fulles", "ars"):
        del options["unroll_length"]
    return AGENTS[algorithm]("LinearPolicy", env, **options)


def everything(agent: Any) -> tuple[Any, ...]:
    episodes = [(info["r"], info["l"]) for info in agent.ep_info_buffer]
    counters = agent.num_timesteps, agent.sequential_steps, agent._n_updates, agent._episode_num
    return agent.policy.core.theta.tobytes(), counters, episodes


def nested(depth: int, space: Any) -> Any:
    for _ in range(depth):
        space = {"type": "Tuple", "spaces": [space]}
    return space


def rewritten(path: Any, **members: bytes) -> None:
    """Replace or add members of a zip, and make its checksum right."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in {**content, **members}.items():
            archive.writestr(name, data)
    path.write_bytes(sealed(stream.getvalue()))


@pytest.mark.parametrize("algorithm", list(AGENTS))
@pytest.mark.parametrize("env", ["Swimmer-v5", DRIFT])
def test_a_loaded_agent_goes_on_bit_for_bit(tmp_path: Any, algorithm: str, env: str) -> None:
    n_threads = 0 if env == DRIFT else 1
    never, stopped = (make_agent(algorithm, env, n_threads=n_threads) for _ in range(2))
    never.learn(3000)
    stopped.learn(3000, callback=StopAt(1500))
    assert 1500 <= stopped.num_timesteps < 2500
    stopped.save(tmp_path / "agent")
    loaded = type(stopped).load(tmp_path / "agent", env=env)
    assert everything(loaded) == everything(stopped)
    for agent in (stopped, loaded):
        agent.learn(3000 - agent.num_timesteps, reset_num_timesteps=False)
        assert everything(agent) == everything(never)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "clipup"])
def test_optimiser_and_schedule_go_on_bit_for_bit(tmp_path: Any, optimizer: str) -> None:
    options: dict[str, Any] = {
        "optimizer": optimizer,
        "learning_rate": LinearSchedule(0.3, 0.01, 0.8),
        "init_scale": 0.5,
        "policy_kwargs": {"hidden": (7,), "activation": "relu", "clip_actions": True},
    }
    never, stopped = (NRES("MlpPolicy", "Swimmer-v5", **{**SWIMMER, **options}) for _ in range(2))
    never.learn(2000)
    stopped.learn(2000, callback=StopAt(900))
    stopped.save(tmp_path / "agent")
    loaded = NRES.load(tmp_path / "agent")
    loaded.learn(2000 - loaded.num_timesteps, reset_num_timesteps=False)
    assert everything(loaded) == everything(never)


def test_constructor_arguments_survive(tmp_path: Any) -> None:
    options = {
        "n_pairs": np.int64(5),
        "unroll_length": 7,
        "noise_period": 14,
        "sigma": 0.25,
        "learning_rate": 0.125,
        "optimizer": "clipup",
        "optimizer_kwargs": {"max_speed": 0.5, "momentum": 0.8},
        "horizon": 33,
        "staggering": "iid",
        "init_scale": 0.75,
        "engine": "native",
        "n_threads": 1,
        "policy_kwargs": {"hidden": (3, 4), "activation": "relu"},
        "stats_window_size": 11,
        "tensorboard_log": str(tmp_path / "tb"),
        "seed": 9,
        "verbose": 0,
    }
    env_kwargs = {"frame_skip": 2, "ctrl_cost_weight": 0.5}
    agent = AGENTS["gpes"]("MlpPolicy", "Swimmer-v5", env_kwargs=env_kwargs, **options)
    agent.save(tmp_path / "agent.zip")
    loaded = AGENTS["gpes"].load(tmp_path / "agent")
    for name, value in options.items():
        assert getattr(loaded, name) == value, name
    assert loaded.env_kwargs == env_kwargs
    assert loaded.policy.core.options() == agent.policy.core.options()
    assert loaded.get_env().envs[0].unwrapped.frame_skip == 2
    np.testing.assert_array_equal(loaded.policy.core.theta, agent.policy.core.theta)
    assert loaded.observation_space == agent.observation_space
    assert loaded.action_space == agent.action_space


def test_saving_changes_nothing_and_can_happen_before_training(tmp_path: Any) -> None:
    agent, other = make_agent(), make_agent()
    agent.save(tmp_path / "fresh")
    assert agent.num_timesteps == 0
    agent.learn(300)
    agent.save(tmp_path / "later")
    loaded = NRES.load(tmp_path / "fresh")
    for one in (agent, other, loaded):
        one.learn(600 - one.num_timesteps, reset_num_timesteps=False)
    assert everything(agent) == everything(other) == everything(loaded)


def test_a_loaded_agent_that_is_saved_again_loses_nothing(tmp_path: Any) -> None:
    agent = make_agent(optimizer="adam")
    agent.learn(500)
    agent.save(tmp_path / "one")
    NRES.load(tmp_path / "one").save(tmp_path / "two")
    loaded = NRES.load(tmp_path / "two")
    for one in (agent, loaded):
        one.learn(300, reset_num_timesteps=False)
    assert everything(agent) == everything(loaded)


def test_loading_to_predict_needs_no_environment(tmp_path: Any) -> None:
    agent = make_agent(env=Drift, n_threads=0, init_scale=1.0)
    agent.save(tmp_path / "agent")
    loaded = NRES.load(tmp_path / "agent")
    assert loaded.get_env() is None
    observation = np.array([0.5, 1.0])
    np.testing.assert_array_equal(loaded.predict(observation)[0], agent.predict(observation)[0])
    with pytest.raises(ValueError, match="env=None: training needs the environment"):
        loaded.learn(100)


def test_a_callable_environment_is_given_again_and_training_goes_on_exactly(tmp_path: Any) -> None:
    def make() -> Any:
        return gym.wrappers.TimeLimit(Drift(bonus=0.5), 20)

    never, stopped = (make_agent(env=make, n_threads=0) for _ in range(2))
    never.learn(2000)
    stopped.learn(2000, callback=StopAt(1000))
    stopped.save(tmp_path / "agent")
    loaded = NRES.load(tmp_path / "agent", env=make)
    loaded.learn(2000 - loaded.num_timesteps, reset_num_timesteps=False)
    assert everything(loaded) == everything(never)
    changed = NRES.load(tmp_path / "agent", env=lambda: Drift(bonus=0.25))
    with pytest.raises(NotReproducibleError):
        changed.learn(100, reset_num_timesteps=False)


def test_a_learning_rate_function_is_given_again(tmp_path: Any) -> None:
    def rate(progress: float) -> float:
        return 0.5 * progress**2

    never, stopped = (make_agent(learning_rate=rate) for _ in range(2))
    never.learn(2000)
    stopped.learn(2000, callback=StopAt(1000))
    stopped.save(tmp_path / "agent")
    forgetful = NRES.load(tmp_path / "agent")
    forgetful.predict(np.zeros(8))
    with pytest.raises(ValueError, match=r"learning_rate: it was <function .*rate.* pass learning"):
        forgetful.learn(100)
    forgetful.save(tmp_path / "again")
    for path, given in (
        ("agent", {"learning_rate": rate}),
        ("again", {"custom_objects": {"learning_rate": rate, "clip_range": None}}),
    ):
        loaded = NRES.load(tmp_path / path, **given)
        loaded.learn(2000 - loaded.num_timesteps, reset_num_timesteps=False)
        assert everything(loaded) == everything(never)


def test_a_policy_class_of_the_user_s_own_is_given_again(tmp_path: Any) -> None:
    class MyPolicy(LinearPolicy):
        pass

    agent = NRES(MyPolicy, "Swimmer-v5", init_scale=1.0, **SWIMMER)
    agent.save(tmp_path / "agent")
    with pytest.raises(ValueError, match=r"policy: it was the class .*MyPolicy"):
        NRES.load(tmp_path / "agent")
    loaded = NRES.load(tmp_path / "agent", custom_objects={"policy_class": MyPolicy})
    assert type(loaded.policy) is MyPolicy
    np.testing.assert_array_equal(loaded.policy.core.theta, agent.policy.core.theta)


@pytest.mark.parametrize(
    "change", [{"sigma": 0.2}, {"n_pairs": 6}, {"seed": 4}, {"horizon": 30}, {"env": "Swimmer-v4"}]
)
def test_what_shapes_the_particles_restarts_them_under_the_saved_theta(
    tmp_path: Any, change: dict[str, Any]
) -> None:
    agent = make_agent(optimizer="momentum")
    agent.learn(600)
    agent.save(tmp_path / "agent")
    loaded = NRES.load(tmp_path / "agent", **change)
    loaded.learn(1, reset_num_timesteps=False)
    # the new start used up the budget, so there was no window; it goes up to position T - W
    assert loaded.num_timesteps > agent.num_timesteps
    assert loaded.sequential_steps - agent.sequential_steps == loaded.horizon - 10
    np.testing.assert_array_equal(loaded.policy.core.theta, agent.policy.core.theta)
    # the optimiser goes on
    assert np.any(loaded._ready().optimizer.state_dict()["velocity"])


def test_what_does_not_shape_the_particles_may_change(tmp_path: Any) -> None:
    agent = make_agent()
    agent.learn(600)
    agent.save(tmp_path / "agent")
    loaded = NRES.load(
        tmp_path / "agent", learning_rate=0.25, n_threads=1, stats_window_size=3, seed=None
    )
    loaded.learn(1, reset_num_timesteps=False)
    assert loaded.num_timesteps == agent.num_timesteps + 80
    assert loaded.ep_info_buffer.maxlen == 3
    before = agent.policy.core.theta.copy()
    agent.learn(1, reset_num_timesteps=False)
    step = agent.policy.core.theta - before
    np.testing.assert_allclose(loaded.policy.core.theta - before, step / 2, rtol=1e-9, atol=1e-12)


def test_arguments_and_particles_can_be_left_out(tmp_path: Any) -> None:
    agent = make_agent(stats_window_size=7)
    agent.learn(600)
    agent.save(tmp_path / "whole")
    agent.save(tmp_path / "small", exclude=["particles", "stats_window_size", "verbose"])
    agent.save(tmp_path / "kept", exclude=["particles"], include=["particles"])
    assert os.path.getsize(tmp_path / "small.zip") < os.path.getsize(tmp_path / "whole.zip") - 2000
    small, kept = NRES.load(tmp_path / "small"), NRES.load(tmp_path / "kept")
    assert small.stats_window_size == 100
    small.learn(1, reset_num_timesteps=False)
    assert small.num_timesteps == agent.num_timesteps + 120
    kept.learn(1, reset_num_timesteps=False)
    assert kept.num_timesteps == agent.num_timesteps + 80
    with pytest.raises(ValueError, match=r"exclude=\['replay_buffer'\]"):
        agent.save(tmp_path / "none", exclude=["replay_buffer"])
    assert not (tmp_path / "none.zip").exists()


def test_files_can_be_streams_and_folders_are_made(tmp_path: Any) -> None:
    agent = make_agent()
    agent.learn(300)
    stream = io.BytesIO()
    agent.save(stream)
    # as it stands, at its end, and rewound
    assert everything(NRES.load(stream)) == everything(agent)
    stream.seek(0)
    loaded = NRES.load(stream)
    agent.save(str(tmp_path / "new" / "folder" / "agent"))
    other = NRES.load(tmp_path / "new" / "folder" / "agent.zip")
    assert everything(loaded) == everything(other) == everything(agent)


def test_parameters_are_read_from_a_file(tmp_path: Any) -> None:
    agent, other = make_agent(), make_agent()
    agent.learn(300)
    agent.save(tmp_path / "agent")
    other.set_parameters(tmp_path / "agent")
    np.testing.assert_array_equal(other.policy.core.theta, agent.policy.core.theta)


@pytest.mark.parametrize("learned", ["never", "before", "loaded"])
def test_the_statistics_of_observations_are_read_with_the_parameters(
    tmp_path: Any, learned: str
) -> None:
    normalized: dict[str, Any] = {"policy_kwargs": {"normalize_observations": True}}
    agent, other = make_agent(**normalized), make_agent(**normalized, seed=4)
    agent.save(tmp_path / "fresh")
    agent.learn(300)
    agent.save(tmp_path / "agent")
    if learned != "never":
        other.learn(500)
    if learned == "loaded":
        other.save(tmp_path / "other")
        other = NRES.load(tmp_path / "other")
    other.set_parameters(tmp_path / "agent")
    x = np.random.default_rng(0).normal(size=(6, 8))
    np.testing.assert_array_equal(other.predict(x)[0], agent.predict(x)[0])
    # training goes on from them too
    known = agent._ready().estimator.statistics.count
    other.learn(1, reset_num_timesteps=False)
    executed = 80 if learned != "never" else 120  # a window, or the start
    assert other._ready().estimator.statistics.count == known + executed
    other.set_parameters(tmp_path / "fresh")
    np.testing.assert_array_equal(other.policy.core.normalizer.mean, np.zeros(8))
    plain = make_agent()
    with pytest.raises(ValueError, match="do not fit this agent's policy"):
        plain.set_parameters(tmp_path / "agent")
    plain.save(tmp_path / "plain")
    with pytest.raises(ValueError, match="do not fit this agent's policy"):
        other.set_parameters(tmp_path / "plain")


def test_another_optimiser_begins_anew_and_statistics_go_on(tmp_path: Any) -> None:
    agent = make_agent(policy_kwargs={"normalize_observations": True})
    agent.learn(300)
    agent.save(tmp_path / "agent")
    loaded = NRES.load(tmp_path / "agent", optimizer="adam", learning_rate=0.01)
    loaded.learn(100, reset_num_timesteps=False)
    assert loaded._ready().estimator.statistics.count > agent._ready().estimator.statistics.count


def test_a_file_holds_json_and_plain_arrays_only(tmp_path: Any) -> None:
    agent = make_agent(env=Drift, n_threads=0, learning_rate=lambda progress: 0.1)
    agent.learn(200)
    agent.save(tmp_path / "agent")
    with zipfile.ZipFile(tmp_path / "agent.zip") as archive:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith(".npy"):
                np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
            elif name == "data":
                data = json.loads(content)
            else:
                assert name in ("_stable_baselines3_version", "system_info.txt")
                content.decode()
    assert data["source"] == {"name": "Drift", "id": None, "kwargs": {":dict:": {}}}
    with np.load(tmp_path / "agent.zip", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["theta"], agent.policy.core.theta)


class Trap:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Any) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (os.fspath(self.mark),)


def test_nothing_in_a_file_is_executed(tmp_path: Any) -> None:
    mark = tmp_path / "executed"
    pickled = pickle.dumps(Trap(mark))
    objects = io.BytesIO()
    np.save(objects, np.array([Trap(mark)], object), allow_pickle=True)
    path = tmp_path / "agent.zip"
    for member, content in (
        ("theta.npy", objects.getvalue()),
        ("counters.npy", objects.getvalue()),
        ("policy.pth", pickled),
        ("theta.npy", pickled),
        ("data", pickled),
    ):
        make_agent().save(path)
        rewritten(path, **{member: content})
        with pytest.raises(ValueError, match="not a usable agent file"):
            NRES.load(path)
        with pytest.raises(ValueError, match="not a usable agent file"):
            make_agent().set_parameters(path)
    data = {"policy_class": {":type:": "x", ":serialized:": "gASVAAAAAAAAAIwA"}}
    rewritten(path, data=json.dumps(data).encode())
    with pytest.raises(ValueError, match="never loaded here"):
        NRES.load(path)
    assert not mark.exists()


def test_files_of_sb3_s_own_agents_are_refused(tmp_path: Any) -> None:
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu").save(tmp_path / "ppo")
    with pytest.raises(ValueError, match="never loaded here"):
        NRES.load(tmp_path / "ppo")


def test_unusable_files_are_named(tmp_path: Any) -> None:
    path = tmp_path / "agent.zip"
    with pytest.raises(FileNotFoundError):
        NRES.load(tmp_path / "agent")
    agent = make_agent()
    agent.learn(200)
    agent.save(path)
    with pytest.raises(ValueError, match="holds a 'nres' agent; PES loads 'pes'"):
        PES.load(path)
    with pytest.raises(ValueError, match="do not match"):
        NRES.load(path, env="HalfCheetah-v5")
    with pytest.raises(ValueError, match="device='cuda'"):
        NRES.load(path, device="cuda")
    with pytest.raises(ValueError, match="fit no other network"):
        NRES.load(path, policy_kwargs={"bias": True})
    with pytest.raises(TypeError, match="n_delta"):
        NRES.load(path, n_delta=3)
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    for wrong in (
        {"version": 99},
        {"counters": {}},
        {"action_space": {"type": "Box"}},
        {"arguments": {"shell": "rm"}},
        {"observation_space": {**data["observation_space"], "dtype": "U300000000"}},
        {"observation_space": {**data["observation_space"], "shape": [2**24]}},
        {"observation_space": nested(400, data["observation_space"])},
        {"source": {"name": 3, "id": 3, "kwargs": {":dict:": {}}}},
        {"source": {"name": "x", "id": "x", "kwargs": 5}},
    ):
        rewritten(path, data=json.dumps({**data, **wrong}).encode())
        with pytest.raises(ValueError, match=r"agent\.zip: not a usable agent file"):
            NRES.load(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a usable agent file"):
        NRES.load(path)


def test_a_file_is_read_only_if_it_is_one(tmp_path: Any) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    (tmp_path / "folder.zip").mkdir()
    for path in (tmp_path / "pipe.zip", tmp_path / "folder.zip"):
        with pytest.raises(ValueError, match="it is a folder, a device or a pipe"):
            NRES.load(path)


def test_a_file_has_no_module_imported(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "agent.zip"
    make_agent().save(path)
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    data["source"] = {**data["source"], "name": "evil:Swimmer-v5", "id": "evil:Swimmer-v5"}
    rewritten(path, data=json.dumps(data).encode())
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    agent = NRES.load(path)
    assert agent.env is None
    with pytest.raises(ValueError, match="training needs the environment"):
        agent.learn(200)
    assert "evil" not in sys.modules
    (tmp_path / "evil.py").write_text("")
    NRES.load(path, env="evil:Swimmer-v5").learn(200)
    assert "evil" in sys.modules
    assert NRES.load(path).env is not None
    monkeypatch.delitem(sys.modules, "evil")


def test_damage_anywhere_is_told_by_the_checksum(tmp_path: Any) -> None:
    path = tmp_path / "agent.zip"
    make_agent().save(path)
    whole = path.read_bytes()
    for bit in range(5, 8 * len(whole), 2003):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(ValueError, match="not a usable agent file"):
            NRES.load(path)
    path.write_bytes(whole)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b""
    with pytest.raises(ValueError, match="its checksum is missing"):
        NRES.load(path)


def test_members_that_share_their_bytes_are_refused(tmp_path: Any) -> None:
    # 40 entries of the directory that point at the bytes of one: 40 times the file to unpack
    path = tmp_path / "agent.zip"
    make_agent().save(path)
    rewritten(path, **{"x00.npy": bytes(10**5)})
    data = path.read_bytes()
    end = data.rindex(b"PK\x05\x06")
    size, start = struct.unpack("<II", data[end + 12 : end + 20])
    directory = data[start : start + size]
    entry = directory[directory.rindex(b"PK\x01\x02") :]
    more = b"".join(entry.replace(b"x00.npy", b"x%02d.npy" % i) for i in range(1, 40))
    count = struct.unpack("<H", data[end + 8 : end + 10])[0] + 39
    tail = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, size + len(more), start, 0)
    path.write_bytes(sealed(data[:start] + directory + more + tail))
    with pytest.raises(ValueError, match="is compressed or oversized"):
        NRES.load(path)


def test_system_information_is_printed_when_asked_for(tmp_path: Any, capsys: Any) -> None:
    make_agent().save(tmp_path / "agent")
    NRES.load(tmp_path / "agent", print_system_info=True)
    printed = capsys.readouterr().out
    assert "== CURRENT SYSTEM INFO ==" in printed
    assert "== SAVED MODEL SYSTEM INFO ==" in printed
    assert printed.count("Stable-Baselines3") == 2


def test_values_come_back_as_they_were() -> None:
    for value in (None, True, 3, 2.5, "word", (1, (2, "x")), [1, (2,)], {"a": {"b": (None,)}}):
        assert decode_value(json.loads(json.dumps(encode_value(value)))) == value
    assert decode_value(encode_value(float("-inf"))) == float("-inf")
    assert decode_value(encode_value({":tuple:": [1]})) == {":tuple:": [1]}
    for schedule in (ConstantSchedule(0.25), LinearSchedule(1.0, 0.5, 0.3)):
        again = decode_value(json.loads(json.dumps(encode_value(schedule))))
        assert [again(p) for p in (1.0, 0.7, 0.1)] == [schedule(p) for p in (1.0, 0.7, 0.1)]
    for value in (print, object(), {1: 2}, np.zeros(2), es_rl):
        with pytest.raises(NotStorableError):
            encode_value(value)
    for stored in ({":schedule:": "system"}, {":schedule:": "ConstantSchedule"}, {"x": 1}):
        with pytest.raises(ValueError, match="unknown kind"):
            decode_value(stored)
