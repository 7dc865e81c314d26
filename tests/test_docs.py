"""The examples of the README and the documentation run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from es_rl.options import OPTIONS, flag

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if "_build" not in page.parts and BLOCK.search(page.read_text())
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_examples_of_a_page_run_in_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for number, block in enumerate(BLOCK.findall(page.read_text())):
        exec(compile(block, f"{page.name}, example {number + 1}", "exec"), names)


def test_there_are_examples() -> None:
    assert {"README.md", "getting_started.md", "own_task.md"} <= {page.name for page in PAGES}


def test_every_agent_is_on_the_pages_of_the_agents() -> None:
    from es_rl.agents import AGENTS
    from es_rl.agents.policies import LinearPolicy, MlpPolicy, policy_options

    guide = (ROOT / "docs" / "stable_baselines3.md").read_text()
    reference = (ROOT / "docs" / "api" / "agents.md").read_text()
    for agent in AGENTS.values():
        assert f"`{agent.__name__}`" in guide
        assert f"autoclass:: es_rl.agents.{agent.__name__}\n" in reference
    for name in {*policy_options(LinearPolicy), *policy_options(MlpPolicy)}:
        assert f"`{name}`" in guide
    for name in ("NativeVecEnv", "MujocoVectorEnv", "gym.make_vec"):
        assert name in guide


def test_every_file_that_the_readme_links_to_exists() -> None:
    for target in re.findall(r"\]\((?!http|#)([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target


def test_the_page_of_the_command_line_names_every_option_of_train() -> None:
    named = set(re.findall(r"`(--[a-z-]+)`", (ROOT / "docs" / "command_line.md").read_text()))
    for name in set(OPTIONS) - {"env"}:
        assert {flag(name), flag(f"no_{name}")} & named, name
