"""How long the doctor takes at most: files larger than it reads, one by one and in one run (docs/doctor.md)."""

from __future__ import annotations

import argparse
import json
import struct
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from sb3_trpo_ext.doctor.bounds import ALL_BYTES, ALL_ROWS, MAX_BYTES, MAX_ROWS
from sb3_trpo_ext.doctor.discover import runs_below
from sb3_trpo_ext.doctor.page import page

FULL = int(1.2 * MAX_BYTES)


def write_record(path: Path, run: Path) -> None:
    """
    Write a record that is too long.

    :param path: where to
    :param run: folder of a real run
    """
    reports = [json.loads(line) for line in (run / "updates.jsonl").read_text().splitlines()]
    with path.open("w") as file:
        number = 0
        while file.tell() < FULL:
            number += 1
            report = {**reports[number % len(reports)], "n_updates": number, "num_timesteps": 2048 * number}
            file.write(json.dumps(report) + "\n")


def write_csv(path: Path) -> None:
    """
    Write a logger's file of the shortest rows that are updates.

    :param path: where to
    """
    rows = (f"{number},0.01,{number}\n" for number in range(1, FULL // 20))
    path.write_text("train/n_updates,train/kl_divergence_loss,time/total_timesteps\n" + "".join(rows))


def write_episodes(path: Path) -> None:
    """
    Write short episodes.

    :param path: where to
    """
    path.write_text('#{"env_id": "x"}\nr,l,t\n' + "".join(f"1.0,10,{number}\n" for number in range(FULL // 15)))


def write_events(path: Path) -> None:
    """
    Write events, each of which is an update.

    :param path: where to
    """
    with path.open("wb") as file:
        for number in range(FULL // 62):
            value = Summary.Value(tag="train/kl_divergence_loss", simple_value=0.01)
            record = Event(step=number, summary=Summary(value=[value])).SerializeToString()
            for part in (struct.pack("<Q", len(record)), record):
                file.write(part + struct.pack("<I", masked_crc32c(part)))


def timed(name: str, folder: Path) -> None:
    """
    Print how long it takes.

    :param name: of what
    :param folder: where it lies
    """
    began = time.process_time()
    runs = list(runs_below([folder], 0.01))
    read = time.process_time()
    size = len(page(runs))
    judged = sum(run.judged for run in runs)
    told = f"{judged:,} updates judged, page {size / 2**20:.1f} MiB in {time.process_time() - read:.1f} s"
    print(f"{name:<28}{read - began:7.1f} s   {told}", flush=True)


def main() -> int:
    """
    Measure.

    :return: exit code
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a real run of ours")
    run = parser.parse_args().run
    with tempfile.TemporaryDirectory() as place:
        top = Path(place)
        everything = top / "all"
        everything.mkdir()
        writers = {"updates.jsonl": lambda path: write_record(path, run), "progress.csv": write_csv}
        writers |= {"monitor.csv": write_episodes, "events.out.tfevents.1": write_events}
        for name, write in writers.items():
            folder = top / name
            folder.mkdir()
            write(folder / name)
            timed(name, folder)
            (everything / name).hardlink_to(folder / name)
        np.save(everything / "kl.npy", np.ones(MAX_BYTES // 4 - 100, np.float32))
        timed("all of them in one run", everything)
    print(f"all runs together: at most {max(ALL_BYTES / MAX_BYTES, ALL_ROWS / MAX_ROWS):g} times that")
    return 0


if __name__ == "__main__":
    sys.exit(main())
