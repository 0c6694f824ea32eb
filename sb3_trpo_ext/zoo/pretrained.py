"""``enjoy --pretrained``: agents that come with the package, in a folder laid out as the Zoo's logs are."""

import argparse
from pathlib import Path

FOLDER = Path(__file__).with_name("trained_agents")
"""Written by ``scripts/make_pretrained.py``. SB3's own formats, which are pickles: trusted as the package is."""

SCRIPTS = ("enjoy", "record_video")
"""Scripts of the Zoo that look at a trained agent."""


def trained() -> list[str]:
    """
    List what comes with the package.

    :return: environment ids
    """
    return sorted(path.stem for path in FOLDER.glob("trpo/*_1/*.zip"))


def own_flags() -> argparse.ArgumentParser:
    """
    Describe the flag, which the Zoo's scripts do not know.

    :return: a parser of it, and of the environment
    """
    parser = argparse.ArgumentParser(
        prog="python -m sb3_trpo_ext",
        add_help=False,
        allow_abbrev=False,
        description="Ours, beside the flags of the Zoo below:",
    )
    parser.add_argument("--env", default="CartPole-v1", help="environment id")
    parser.add_argument(
        "--pretrained",
        action="store_true",
        help=f"the agent that comes with this package ({', '.join(trained())}), not one of the log folder",
    )
    return parser


def _of_another_agent(arguments: list[str]) -> list[str]:
    """Flags of the Zoo that ask for an agent, as it reads them (shortened, too), but for ``--algo trpo``."""
    parser = argparse.ArgumentParser(prog="python -m sb3_trpo_ext", add_help=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("-f", "--folder", nargs="?")
    for flag in ("--algo", "--exp-id", "--load-checkpoint"):
        parser.add_argument(flag, nargs="?")
    for flag in ("--load-best", "--load-last-checkpoint"):
        parser.add_argument(flag, action="store_true")
    asked = vars(parser.parse_known_args(arguments)[0])
    return [f"--{name.replace('_', '-')}" for name, value in asked.items() if (name, value) != ("algo", "trpo")]


def with_folder(name: str, arguments: list[str]) -> list[str]:
    """
    Put the package's folder in the place of ``--pretrained``.

    :param name: one of ``SCRIPTS``; a film goes to ``logs/videos``, not to where the agent is
    :param arguments: the user's own flags
    :return: flags for the Zoo
    :raises ValueError: if there is no trained agent for this environment, or another one is asked for, too
    """
    known = own_flags().parse_known_args(arguments)[0]
    if not known.pretrained:
        return arguments
    if known.env not in trained():
        raise ValueError(f"--pretrained: no trained {known.env} comes with this package, only {', '.join(trained())}")
    others = _of_another_agent(arguments)
    if others:
        raise ValueError(f"--pretrained is one agent of TRPO, at the end of its training: drop {', '.join(others)}")
    rest = [each for each in arguments if each != "--pretrained"]
    film = ["-o", "logs/videos"] if name == "record_video" else []
    return [*film, *rest, "-f", str(FOLDER)]


def hint(arguments: list[str]) -> str:
    """
    Tell who has trained nothing yet what could be looked at.

    :param arguments: the user's own flags
    :return: the end of a message, or nothing
    """
    known = own_flags().parse_known_args(arguments)[0]
    there = known.env in trained() and not known.pretrained
    return f" (a trained {known.env} comes with this package: --pretrained)" if there else ""
