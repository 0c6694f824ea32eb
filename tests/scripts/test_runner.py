"""Nothing is lost and nothing is done twice, whatever is killed."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from evidence.runner import SCRIPTS, Runner
from evidence.runs import Run
from evidence.store import Store, write_whole

RUNS = [Run("T-v0", seed, "ours", 100, {"gamma": 0.9}, numerics_version=1) for seed in range(4)]

# Stands in for evidence.worker: takes DELAY seconds, says who it is, and follows its parent into death like the real one.
WORKER = textwrap.dedent("""
    import json, os, sys, time
    from pathlib import Path
    from evidence.runs import Run
    from evidence.store import write_whole
    from evidence.worker import end_with_parent

    end_with_parent()
    folder = Path(sys.argv[1])
    run = Run.from_json((folder / "run.json").read_text())
    log = Path(os.environ["STARTED"])
    with log.open("a") as file:
        file.write(f"{run.seed} {os.getpid()}\\n")
    (folder / "progress").write_text("50")
    time.sleep(0 if str(run.seed) in os.environ.get("QUICK", "") else float(os.environ.get("DELAY", "0")))
    if str(run.seed) in os.environ.get("BROKEN", ""):
        raise ValueError("sb3 says no")
    result = {"return_mean": float(run.seed), "return_std": 0.0, "episodes": 20, "seconds": 1.0}
    curve = [{"steps": 0, "return_mean": 0.0}, {"steps": 100, "return_mean": float(run.seed)}]
    write_whole(folder / "result.json", json.dumps({"result": result, "curve": curve}))
    time.sleep(float(os.environ.get("DELAY_AFTER", "0")))
""")

PARENT = textwrap.dedent("""
    import sys
    from pathlib import Path
    from evidence.runner import Runner
    from evidence.runs import Run
    from evidence.store import Store

    root = Path(sys.argv[1])

    class Silent:
        def started(self, run): pass
        def advanced(self, run, steps): pass
        def ended(self, run, error, log): pass

    runs = [Run("T-v0", seed, "ours", 100, {"gamma": 0.9}, numerics_version=1) for seed in range(4)]
    store = Store(root / "results", root / "work")
    missing = [run for run in runs if run.id not in store.finished()]
    Runner(store, 2, Silent(), (sys.executable, str(root / "worker.py"))).do(missing)
""")


class Recorder:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.ends: dict[int, str | None] = {}

    def started(self, run: Run) -> None: ...

    def advanced(self, run: Run, steps: int) -> None: ...

    def ended(self, run: Run, error: str | None, log: str) -> None:
        self.ends[run.seed] = error


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    (tmp_path / "worker.py").write_text(WORKER)
    (tmp_path / "parent.py").write_text(PARENT)
    monkeypatch.setenv("STARTED", str(tmp_path / "started.txt"))
    return Store(tmp_path / "results", tmp_path / "work")


def runner(store: Store, tmp_path: Path, display: Recorder) -> Runner:
    return Runner(store, 2, display, (sys.executable, str(tmp_path / "worker.py")))


def starts(tmp_path: Path) -> list[tuple[int, int]]:
    """Seed and process of each worker that began."""
    path = tmp_path / "started.txt"
    return [tuple(map(int, line.split())) for line in path.read_text().splitlines()] if path.exists() else []  # type: ignore[misc]


def parent(tmp_path: Path, **environment: str) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(SCRIPTS), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(tmp_path / "parent.py"), str(tmp_path)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path, **environment})


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z" if Path("/proc").exists() else True


def seeds_of(store: Store) -> list[int]:
    return sorted(int(row["seed"]) for row in store.rows("runs"))


def check_whole(store: Store) -> None:
    assert seeds_of(store) == [0, 1, 2, 3]
    curves = store.rows("curves")
    assert sorted((int(row["seed"]), int(row["steps"])) for row in curves) == [(s, at) for s in range(4) for at in (0, 100)]
    assert [path for path in store.work.iterdir() if path.is_dir()] == []
    assert [path for path in store.folder.iterdir() if path.name.startswith(".")] == []


def test_each_run_is_done_once(store: Store, tmp_path: Path) -> None:
    display = Recorder()
    assert runner(store, tmp_path, display).do(RUNS) == []
    check_whole(store)
    assert display.ends == dict.fromkeys(range(4))
    before = (store.folder / "runs.csv").read_bytes()
    assert runner(store, tmp_path, display).do(RUNS) == []
    assert (store.folder / "runs.csv").read_bytes() == before
    assert len(starts(tmp_path)) == 4


def test_a_killed_runner_goes_on_where_it_was(store: Store, tmp_path: Path) -> None:
    first = parent(tmp_path, DELAY="100", QUICK="0")
    wait_for(lambda: seeds_of(store) == [0] and len(starts(tmp_path)) == 3)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = {row["run"]: row for row in store.rows("runs")}
    wait_for(lambda: not any(alive(pid) for _, pid in starts(tmp_path)))  # no worker outlives it
    second = parent(tmp_path)
    assert second.wait() == 0
    check_whole(store)
    assert {row["run"]: row for row in store.rows("runs") if row["run"] in done} == done
    repeated = [seed for seed, _ in starts(tmp_path)]
    assert all(repeated.count(int(row["seed"])) == 1 for row in done.values())


def test_what_was_finished_but_not_yet_kept_is_kept(store: Store, tmp_path: Path) -> None:
    first = parent(tmp_path, DELAY_AFTER="30")  # results lie there, workers have not ended
    wait_for(lambda: len(list(store.work.glob("*/result.json"))) == 2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert store.rows("runs") == []
    assert parent(tmp_path).wait() == 0
    check_whole(store)
    assert sorted(seed for seed, _ in starts(tmp_path)) == [0, 1, 2, 3]


def test_two_runners_share_the_work(store: Store, tmp_path: Path) -> None:
    both = [parent(tmp_path, DELAY="0.3") for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0]
    check_whole(store)
    assert sorted(seed for seed, _ in starts(tmp_path)) == [0, 1, 2, 3]


def test_a_failed_run_is_recorded_and_tried_again(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    display = Recorder()
    monkeypatch.setenv("BROKEN", "2")
    assert [run.seed for run in runner(store, tmp_path, display).do(RUNS)] == [2]
    assert seeds_of(store) == [0, 1, 3]
    assert [row["error"] for row in store.rows("failures")] == ["exit code 1: ValueError: sb3 says no"]
    assert display.ends[2] == "exit code 1: ValueError: sb3 says no"
    monkeypatch.delenv("BROKEN")
    missing = [run for run in RUNS if run.id not in store.finished()]
    assert runner(store, tmp_path, display).do(missing) == []
    check_whole(store)
    assert store.rows("failures") == []


def test_a_kill_between_curve_and_row_leaves_no_double(store: Store) -> None:
    # The curve was written, the row was not: adding again replaces the curve
    curve = [{"steps": 0, "return_mean": 1.0}]
    store._replace(
        "curves", RUNS[0].id, [{"run": RUNS[0].id, "task": "T-v0", "seed": 0, "implementation": "ours", **curve[0]}]
    )
    store.add(RUNS[0], {"return_mean": 2.0}, curve)
    store.add(RUNS[0], {"return_mean": 3.0}, curve)
    assert len(store.rows("curves")) == 1
    assert [row["return_mean"] for row in store.rows("runs")] == ["2"]
    assert json.loads((store.folder / "configurations.json").read_text()) == {RUNS[0].config_hash: {"gamma": 0.9}}


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.csv"
    write_whole(path, "old\n")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, "new\n" * 1_000)
    assert path.read_text() == "old\n"
