"""Without a screen: films take a renderer that works, and windows are refused before anything is made."""

import os
import sys
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv

from sb3_trpo_ext.zoo import screen
from sb3_trpo_ext.zoo.cli import run
from sb3_trpo_ext.zoo.yaml_files import ConfigError

WORKS = "import os, sys; sys.exit(os.environ['MUJOCO_GL'] != '{}')"
"""In place of what a renderer is tried with: one of them works."""


class Mine(HopperEnv):
    """A robot of the user's own."""


@pytest.fixture(autouse=True)
def without_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*screen.SCREENS, "SDL_VIDEODRIVER", "MUJOCO_GL", "MPLBACKEND"):
        monkeypatch.setenv(name, "")  # put back afterwards, whatever a test sets
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "platform", "linux")


def works(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(screen, "TRIAL", WORKS.format(name))


@pytest.mark.parametrize(
    ("variables", "robot", "cart"),
    [
        ({}, False, False),
        ({"DISPLAY": ""}, False, False),
        ({"SDL_VIDEODRIVER": "dummy"}, False, True),  # pygame's windows only
        ({"DISPLAY": ":7777"}, False, True),  # left of a connection that has ended: GLFW would abort
        ({"WAYLAND_DISPLAY": "nowhere-7"}, False, True),
    ],
)
def test_a_screen_is_one_that_a_window_can_be_opened_on(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], robot: bool, cart: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (screen.has_screen("Hopper-v5"), screen.has_screen("CartPole-v1")) == (robot, cart)


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_have_a_screen(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert screen.has_screen("Hopper-v5")
    screen.prepare("Hopper-v5", "human")
    screen.prepare("Hopper-v5", "rgb_array")
    assert "MUJOCO_GL" not in os.environ


def test_mujoco_draws_its_own_tasks_and_what_is_made_of_them() -> None:
    gym.register("Mine-v0", Mine)
    try:
        drawn = {name: screen.uses_mujoco(name) for name in ("Hopper-v5", "Mine-v0", "CartPole-v1", "FrozenLake-v1")}
    finally:
        del gym.registry["Mine-v0"]
    assert drawn == {"Hopper-v5": True, "Mine-v0": True, "CartPole-v1": False, "FrozenLake-v1": False}


@pytest.mark.parametrize("name", screen.RENDERERS)
def test_a_film_takes_the_renderer_that_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    works(monkeypatch, name)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")  # says nothing about OpenGL
    screen.prepare("Hopper-v5", "rgb_array")
    assert os.environ["MUJOCO_GL"] == name
    assert capsys.readouterr().err == f"sb3_trpo_ext: there is no screen: MuJoCo draws with MUJOCO_GL={name}\n"


def test_a_renderer_of_the_users_own_is_kept_or_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    works(monkeypatch, "egl")
    monkeypatch.setenv("MUJOCO_GL", "egl")
    screen.prepare("Hopper-v5", "rgb_array")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(ConfigError, match="MUJOCO_GL=osmesa does not work without one"):
        screen.prepare("Hopper-v5", "rgb_array")
    assert os.environ["MUJOCO_GL"] == "osmesa"
    assert capsys.readouterr().err == ""


def test_without_a_renderer_only_mujocos_tasks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    works(monkeypatch, "none")
    with pytest.raises(
        ConfigError, match=r"^Hopper-v5 can't be filmed: there is no screen, and EGL and OSMesa .*apt-get install"
    ):
        screen.prepare("Hopper-v5", "rgb_array")
    screen.prepare("CartPole-v1", "rgb_array")
    screen.prepare("Hopper-v5", None)
    assert "MUJOCO_GL" not in os.environ


def test_with_a_screen_nothing_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(screen, "_glfw_works", lambda: True)  # no test has a screen of its own
    works(monkeypatch, "egl")
    screen.prepare("Hopper-v5", "human")
    screen.prepare("Hopper-v5", "rgb_array")
    assert "MUJOCO_GL" not in os.environ


def test_a_window_is_refused_in_one_line_and_nothing_is_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    assert run(["enjoy", "--env", "Hopper-v5", "--pretrained", "-n", "10"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("sb3_trpo_ext: Hopper-v5 would be shown in a window, and there is no screen")
    assert "add --no-render" in err
    assert "record_video instead of enjoy" in err
    assert err.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_plots_say_why_no_figure_appears(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    screen.say_figures()
    assert "figures are not shown" in capsys.readouterr().err
    for name, value in (("MPLBACKEND", "agg"), ("DISPLAY", ":0")):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            screen.say_figures()
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_robot_is_filmed_without_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    if screen.renderer() is None:
        pytest.skip("neither EGL nor OSMesa is installed")
    monkeypatch.setattr(sys, "argv", sys.argv)
    assert run(["record_video", "--env", "Hopper-v5", "--pretrained", "-n", "5"]) == 0
    assert [film.stat().st_size > 1000 for film in Path("logs/videos").glob("*.mp4")] == [True]
