"""``python -m sb3_trpo_ext SCRIPT ...``: see ``python -m sb3_trpo_ext -h``."""

import io
import os
import sys
from contextlib import suppress
from typing import Any


class _Patient(io.FileIO):
    """A stream's file; what can't be written is dropped: a pipe that nobody reads, a terminal that is gone, a full disk."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def patient_output() -> None:
    """
    Let printing end no command: neither ``| head``, nor a closed stream, nor a terminal that lacks a letter.

    What the terminal's encoding can't show is printed as a question mark.
    """
    for name, errors in (("stdout", "replace"), ("stderr", "backslashreplace")):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
            continue
        if sys.platform == "win32" and stream.isatty():
            continue  # a console, which takes characters and not bytes
        with suppress(AttributeError, OSError):  # a notebook's, or a test's: not a file
            file = _Patient(stream.fileno(), "wb", closefd=False)
            settings = {each: getattr(stream, each) for each in ("encoding", "line_buffering", "write_through")}
            # Unbuffered (python -u), a line must be out before whatever comes next.
            buffer: Any = file if stream.write_through else io.BufferedWriter(file)
            stream.flush()
            setattr(sys, name, io.TextIOWrapper(buffer, errors=errors, **settings))


def main() -> int:
    """
    Run the command line.

    :return: exit code
    """
    patient_output()
    try:
        # Each imports what it needs itself and no more: what an extra brings need not be there for the others.
        return {"doctor": _doctor, "export": _export, "replay": _replay}.get("".join(sys.argv[1:2]), _zoo)()
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as a shell counts; the Zoo has saved what it could


def _zoo() -> int:
    try:
        from sb3_trpo_ext.zoo.cli import run
    except ModuleNotFoundError as error:
        if error.name != "rl_zoo3":
            raise
        sys.stderr.write("The RL Zoo is missing: pip install 'sb3-trpo-ext[zoo]'\n")
        return 2
    from sb3_trpo_ext.doctor import SUMMARY
    from sb3_trpo_ext.export import cli as export
    from sb3_trpo_ext.replay import cli as replay

    return run(sys.argv[1:], {"export": export.SUMMARY, "doctor": SUMMARY, "replay": replay.SUMMARY})


def _export() -> int:
    from sb3_trpo_ext.export import cli

    return cli.main(sys.argv[2:])


def _replay() -> int:
    try:
        from sb3_trpo_ext.replay import cli
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "rich":
            raise
        sys.stderr.write("replay needs rich: pip install 'sb3-trpo-ext[doctor]'\n")
        return 2
    return cli.main(sys.argv[2:])


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
