"""
Windows and films on Linux without a screen: a film takes a renderer that works there, and a window is refused in one line.

The Zoo's ``enjoy`` and ``record_video`` make their environments with ``create_test_env``. When it is called, flags, packages
and the run's settings have been read, and nothing has been made yet: this is where the screen is looked for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from contextlib import suppress
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator
from rl_zoo3.utils import create_test_env as zoos_create_test_env
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_ext.zoo.yaml_files import ConfigError

SCREENS = ("DISPLAY", "WAYLAND_DISPLAY")
"""Variables that name a screen on Linux; macOS and Windows have none of them."""

RENDERERS = ("egl", "osmesa")
"""Values of ``MUJOCO_GL`` that need no screen, the faster one first."""

INSTALL = "apt-get install libegl1 libgl1 libgl1-mesa-dri"
"""Debian's and Ubuntu's way to an EGL that renders on the processor."""

TRIAL = "import mujoco as m; c = m.GLContext(8, 8); c.make_current(); m.MjrContext(m.MjModel.from_xml_string('<mujoco/>'), 50)"
"""What gymnasium does before it draws, in small."""

TRIAL_SECONDS = 60.0
"""A renderer that needs longer for that hangs; most of it is the import of MuJoCo on a busy machine."""

DRAWN_BY_PYGAME = ("gymnasium.envs.classic_control", "gymnasium.envs.box2d", "gymnasium.envs.toy_text")
"""Tasks that need no renderer of MuJoCo's."""


def has_screen(env_id: str) -> bool:
    """
    Find out whether a window of a task can be opened.

    :param env_id: of the task
    :return: True where nothing speaks against it; pygame's need no screen where ``SDL_VIDEODRIVER`` sends them elsewhere
    """
    return _glfw_works() if uses_mujoco(env_id) else _names_screen() or bool(os.environ.get("SDL_VIDEODRIVER"))


def _names_screen() -> bool:
    return sys.platform != "linux" or any(os.environ.get(name) for name in SCREENS)


def _glfw_works() -> bool:
    """A variable that is left of an ssh connection names a screen that is gone: a window would abort the process."""
    if sys.platform != "linux" or not _names_screen():
        return _names_screen()
    import glfw  # loads libraries, which no training needs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        works = bool(glfw.init())
        glfw.terminate()
    return works


def uses_mujoco(env_id: str) -> bool:
    """
    Find out whether MuJoCo draws a task.

    :param env_id: as registered
    :return: whether its class is one of MuJoCo's
    """
    entry = gym.spec(env_id).entry_point
    if "mujoco" in str(entry):  # not imported: with a renderer that is broken, mujoco itself can't be
        return True
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    return any("mujoco" in str(each).lower() for each in getattr(creator, "__mro__", (creator,)))


def renderer() -> str | None:
    """
    Find a renderer of MuJoCo's that works without a screen: each is tried in a process of its own, which it may end.

    :return: a value of ``MUJOCO_GL``, the user's own if there is one; None if it does not work
    """
    asked = os.environ.get("MUJOCO_GL")
    for name in (asked,) if asked else RENDERERS:
        command, environ = [sys.executable, "-c", TRIAL], {**os.environ, "MUJOCO_GL": name}
        with suppress(subprocess.TimeoutExpired):
            if subprocess.run(command, env=environ, capture_output=True, timeout=TRIAL_SECONDS).returncode == 0:
                return name
    return None


def prepare(env_id: str, render_mode: str | None) -> None:
    """
    Make sure that a task can be shown as it is going to be.

    :param env_id: of the task
    :param render_mode: of gymnasium; None: it is not shown
    :raises ConfigError: with the remedy, if that is impossible on this machine
    """
    if render_mode == "human" and not has_screen(env_id):
        raise ConfigError(
            f"{env_id} would be shown in a window, and there is no screen (DISPLAY and WAYLAND_DISPLAY name none that works): "
            "add --no-render for the returns alone, or film it: record_video instead of enjoy"
        )
    if render_mode in ("human", None) or _glfw_works():
        return
    if str(gym.spec(env_id).entry_point).startswith(DRAWN_BY_PYGAME):
        return
    found = renderer()
    if found is None and uses_mujoco(env_id):
        raise ConfigError(f"{env_id} can't be filmed: {no_renderer()}")
    if found is not None and "MUJOCO_GL" not in os.environ:
        os.environ["MUJOCO_GL"] = found
        print(f"sb3_trpo_ext: there is no screen: MuJoCo draws with MUJOCO_GL={found}", file=sys.stderr)


def no_renderer() -> str:
    """
    Say what a machine without a screen lacks.

    :return: what was tried, and the remedy
    """
    asked = os.environ.get("MUJOCO_GL")
    tried = f"MUJOCO_GL={asked} does" if asked else "EGL and OSMesa do"
    return f"there is no screen, and {tried} not work without one; on Debian `{INSTALL}` brings EGL"


def create_test_env(env_id: str, *arguments: Any, **named: Any) -> VecEnv:
    r"""
    Make an environment as the Zoo does, if this machine can show it.

    :param env_id: of the task
    :param \*arguments: of the Zoo's
    :param \**named: of the Zoo's
    :return: the environment
    """
    prepare(env_id, (named.get("env_kwargs") or {}).get("render_mode", "human" if named.get("should_render", True) else None))
    return zoos_create_test_env(env_id, *arguments, **named)


def say_figures() -> None:
    """Say why no figure appears, to somebody who plots without a screen."""
    if not _names_screen() and "MPLBACKEND" not in os.environ:
        print(
            "sb3_trpo_ext: there is no screen: figures are not shown (saved by `plots all -o FILE`, then "
            "`plots from_file -i FILE -o IMAGE`)",
            file=sys.stderr,
        )
