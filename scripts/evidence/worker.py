"""
One run in a process of its own: ``python -m evidence.worker FOLDER`` reads ``run.json`` there and leaves ``result.json``.

It ends with its parent, however that ends: the parent holds the other side of standard input.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from evidence.provenance import provenance
from evidence.runs import RANDOM, Run
from evidence.store import write_whole


def end_with_parent() -> None:
    """Leave at once when the parent is gone: nothing that a killed runner has begun goes on unseen."""

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def check_version(run: Run) -> None:
    """
    Refuse to file a run under a version that it was not made with.

    :param run: what is asked for
    :raises RuntimeError: if the code has changed since the runner was started
    """
    if run.numerics_version is None:  # not ours
        return
    from sb3_trpo_ext.core import NUMERICS_VERSION

    if run.numerics_version != NUMERICS_VERSION:
        raise RuntimeError(
            f"NUMERICS_VERSION is {NUMERICS_VERSION} and was {run.numerics_version} when this began: start again to use it"
        )


def main(folder: Path) -> None:
    """
    Do a run.

    :param folder: its folder
    """
    end_with_parent()
    run = Run.from_json((folder / "run.json").read_text())
    check_version(run)
    source = provenance()  # before training: the code may change while it lasts

    def progress(steps: int) -> None:
        (folder / "progress").write_text(str(steps))

    import torch

    from evidence import training

    torch.set_num_threads(1)
    if run.implementation == RANDOM:
        result, curve = training.play_randomly(run), []
    else:
        result, curve = training.train(run, folder, progress)
    finished = provenance()["finished"]
    write_whole(folder / "result.json", json.dumps({"result": {**result, **source, "finished": finished}, "curve": curve}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
