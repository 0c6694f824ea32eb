"""``python -m sb3_trpo_ext SCRIPT ...``: see ``python -m sb3_trpo_ext -h``."""

import sys


def main() -> int:
    """
    Run the command line.

    :return: exit code
    """
    try:
        if sys.argv[1:2] == ["doctor"]:
            return _doctor()
        from sb3_trpo_ext.doctor import SUMMARY
        from sb3_trpo_ext.export import cli as export
        from sb3_trpo_ext.replay import cli as replay

        if sys.argv[1:2] == ["export"]:
            return export.main(sys.argv[2:])
        if sys.argv[1:2] == ["replay"]:
            return replay.main(sys.argv[2:])
        from sb3_trpo_ext.zoo.cli import run

        return run(sys.argv[1:], {"export": export.SUMMARY, "doctor": SUMMARY, "replay": replay.SUMMARY})
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as a shell counts; the Zoo has saved what it could
    except ModuleNotFoundError as error:
        if error.name != "rl_zoo3":
            raise
        sys.stderr.write("The RL Zoo is missing: pip install 'sb3-trpo-ext[zoo]'\n")
        return 2


def _doctor() -> int:
    try:
        from sb3_trpo_ext.doctor import cli
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in ("rich", "tensorboard", "yaml"):
            raise
        sys.stderr.write(f"The doctor needs {error.name}: pip install 'sb3-trpo-ext[doctor]'\n")
        return 3  # 2 would be a verdict
    return cli.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
