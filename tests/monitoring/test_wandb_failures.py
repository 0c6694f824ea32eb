"""What must not happen when W&B is slow, broken or missing, or when a signal comes."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import types
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rl_zoo3.utils import get_callback_list
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger

import sb3_trpo_ext
from sb3_trpo_ext import TRPO
from sb3_trpo_ext.monitoring import WandbMonitor
from sb3_trpo_ext.monitoring import wandb as session
from sb3_trpo_ext.monitoring.bounded import GIVE_UP_AFTER, HIDDEN, BoundedCalls, without_keys
from sb3_trpo_ext.monitoring.wandb_files import dump_files
from sb3_trpo_ext.records.signals import BeforeSigterm
from tests.monitoring.wandb_runs import FAKE_KEY


def fails() -> None:
    raise OSError(f"no such thing as {FAKE_KEY}")


# ---------------------------------------------------------------- bounded calls


def test_a_failure_is_said_once_and_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
    calls = BoundedCalls("W&B", 5.0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(GIVE_UP_AFTER - 1):
            assert calls.try_to("logging", fails) is None
    [warning] = said
    assert str(warning.message).startswith(f"W&B: logging failed (OSError: no such thing as {HIDDEN}). Training goes on;")
    assert calls.try_to("logging", lambda: 3) == 3
    assert not calls.given_up


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("error", [OSError, SystemExit, KeyboardInterrupt])
def test_after_some_failures_in_a_row_nothing_is_tried(error: type[BaseException]) -> None:
    calls, tried = BoundedCalls("W&B", 5.0), []

    def attempt() -> None:
        tried.append(1)
        raise error

    for _ in range(GIVE_UP_AFTER + 5):
        calls.try_to("logging", attempt)
    assert len(tried) == GIVE_UP_AFTER


def test_a_call_that_hangs_is_waited_for_once() -> None:
    calls, started = BoundedCalls("W&B", 0.2), time.monotonic()
    with pytest.warns(UserWarning, match=r"logging took more than 0\.2 s"):
        calls.try_to("logging", threading.Event().wait)
    for _ in range(20):
        calls.try_to("logging", threading.Event().wait)
    assert time.monotonic() - started < 2


def test_no_key_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", " ")
    assert without_keys("a b") == "a b"


# ---------------------------------------------------------------- a broken wandb


class BrokenRun:
    """Answers the first calls."""

    id = "x"
    settings = types.SimpleNamespace(sync_tensorboard=False)

    def __getattr__(self, name: str) -> Any:
        return fails()


def broken(monkeypatch: pytest.MonkeyPatch, **attributes: Any) -> None:
    module = types.ModuleType("wandb")
    for name, value in attributes.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "wandb", module)


def hangs(*_: Any, **__: Any) -> None:
    threading.Event().wait()


@pytest.mark.parametrize(
    "attributes",
    [
        {},  # not even wandb.run
        {"run": BrokenRun()},
        {"run": types.SimpleNamespace(settings=BrokenRun.settings, config=types.SimpleNamespace(update=hangs))},
        {"run": None, "Settings": fails},
        {"run": None, "Settings": types.SimpleNamespace(model_fields={}), "init": fails},
    ],
)
def test_a_training_does_not_notice(
    attributes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    broken(monkeypatch, **attributes)
    monkeypatch.setattr(session, "CALL_SECONDS", 0.5)
    before = signal.getsignal(signal.SIGTERM)

    def train(callback: WandbMonitor | None) -> TRPO:
        model = TRPO("MlpPolicy", "CartPole-v1", n_steps=64, seed=0, device="cpu", log_folder="run")
        return model.learn(256, callback=callback)

    followed, alone = train(WandbMonitor(histogram_every=1)), train(None)
    assert followed.last_update is not None
    assert alone.last_update is not None
    assert followed.last_update.kl == alone.last_update.kl
    assert len([warning for warning in recwarn if str(warning.message).startswith("W&B:")]) == 1
    assert signal.getsignal(signal.SIGTERM) == before
    assert Path("run/updates.jsonl").is_file()


def test_a_training_that_was_broken_off_leaves_nothing_that_logs_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, Any]] = []
    accepts = types.SimpleNamespace(update=lambda *_, **__: None)
    run = types.SimpleNamespace(
        settings=BrokenRun.settings, config=accepts, summary=accepts, define_metric=lambda *_, **__: None, log=rows.append
    )
    broken(monkeypatch, run=run)
    model = TRPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, seed=0, device="cpu")
    model.set_logger(Logger(None, []))
    monitor = WandbMonitor(histogram_every=0, artifacts=False)
    with monkeypatch.context() as patch:
        patch.setattr(model, "train", fails)
        with pytest.raises(OSError, match="no such thing"):
            model.learn(128, callback=monitor)
    rows.clear()
    model.learn(64, callback=monitor)
    assert [row["global_step"] for row in rows if "time/fps" in row] == [64]
    assert model.logger.output_formats == []


def test_wandb_is_not_imported_before_it_is_needed() -> None:
    code = "import sys; from sb3_trpo_ext.monitoring import WandbMonitor; WandbMonitor(); assert 'wandb' not in sys.modules"
    environ = {**os.environ, "PYTHONPATH": str(Path(sb3_trpo_ext.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environ)


def test_the_zoo_makes_it_from_its_name() -> None:
    [monitor] = get_callback_list({"callback": [{"sb3_trpo_ext.monitoring.WandbMonitor": {"histogram_every": 3}}]})
    assert isinstance(monitor, WandbMonitor)
    assert monitor.histogram_every == 3


def test_another_algorithm_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"WandbMonitor reads reports of sb3_trpo_ext\.TRPO; PPO makes none"):
        PPO("MlpPolicy", "CartPole-v1", n_steps=64).learn(64, callback=WandbMonitor())


def test_its_state_goes_on() -> None:
    monitor, resumed = WandbMonitor(), WandbMonitor()
    monitor.summaries.best_return = 3.0
    monitor._alerted, monitor._seen = {("TR101", 4)}, 9
    resumed.load_state_dict(monitor.state_dict())
    assert resumed.state_dict() == monitor.state_dict()
    assert resumed._alerted == {("TR101", 4)}


# ---------------------------------------------------------------- dumps


def test_the_newest_dumps_that_fit_are_taken_whole() -> None:
    folder = Path("dumps")
    (folder / "inner").mkdir(parents=True)
    for age, (name, size) in enumerate([("b.npz", 60), ("b.json", 10), ("a.npz", 50), ("inner/c.npz", 20), ("d.npz", 900)]):
        (folder / name).write_bytes(bytes(size))
        os.utime(folder / name, (1000 - age, 1000 - age))
    Path("secret").write_text("key")
    (folder / "link.json").symlink_to(Path("secret").resolve())

    def taken(limit: int) -> list[str]:
        return [file.relative_to(folder).as_posix() for file in dump_files(folder, limit)]

    assert taken(1040) == ["b.json", "b.npz", "a.npz", "inner/c.npz", "d.npz"]
    with pytest.warns(UserWarning, match="not all dumps fit"):
        assert taken(100) == ["b.json", "b.npz", "inner/c.npz"]
    with pytest.warns(UserWarning, match="not all dumps fit"):
        assert taken(69) == ["a.npz"]
    assert dump_files(Path("nowhere"), 100) == []


# ---------------------------------------------------------------- SIGTERM


@pytest.fixture
def handler() -> Any:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("handler")
def test_the_earlier_handler_is_called_after_ours_and_put_back() -> None:
    called: list[str] = []

    def earlier(number: int, frame: object) -> None:
        called.append("earlier")

    signal.signal(signal.SIGTERM, earlier)
    ours = BeforeSigterm(lambda: called.append("ours"))
    ours.install()
    ours.install()
    os.kill(os.getpid(), signal.SIGTERM)
    assert called == ["ours", "earlier"]
    ours.remove()
    ours.remove()
    assert signal.getsignal(signal.SIGTERM) is earlier


@pytest.mark.usefixtures("handler")
def test_a_second_sigterm_does_not_disturb_the_first_ones_action() -> None:
    called: list[str] = []
    signal.signal(signal.SIGTERM, lambda number, frame: called.append("earlier"))

    def action() -> None:
        called.append("begun")
        os.kill(os.getpid(), signal.SIGTERM)
        called.append("done")

    ours = BeforeSigterm(action)
    ours.install()
    os.kill(os.getpid(), signal.SIGTERM)
    assert called == ["begun", "done", "earlier"]
    ours.remove()
    assert callable(signal.getsignal(signal.SIGTERM))


@pytest.mark.usefixtures("handler")
@pytest.mark.parametrize("order", itertools.permutations(range(3)), ids=str)
def test_several_of_ours_are_removed_in_any_order(order: tuple[int, ...]) -> None:
    called: list[int] = []
    ours = [BeforeSigterm(partial(called.append, i)) for i in range(3)]

    def earlier(number: int, frame: object) -> None: ...

    signal.signal(signal.SIGTERM, earlier)
    for each in ours:
        each.install()
    for n_removed, index in enumerate(order, start=1):
        ours[index].remove()
        called.clear()
        os.kill(os.getpid(), signal.SIGTERM)
        assert called == sorted(order[n_removed:], reverse=True)
    assert signal.getsignal(signal.SIGTERM) is earlier


@pytest.mark.usefixtures("handler")
def test_one_that_was_put_over_ours_stays_and_ours_acts_no_longer() -> None:
    called: list[str] = []
    signal.signal(signal.SIGTERM, lambda number, frame: called.append("earlier"))
    ours = BeforeSigterm(lambda: called.append("ours"))
    ours.install()
    below: Any = signal.getsignal(signal.SIGTERM)

    def later(number: int, frame: Any) -> None:
        called.append("later")
        below(number, frame)

    signal.signal(signal.SIGTERM, later)
    ours.remove()
    assert signal.getsignal(signal.SIGTERM) is later
    os.kill(os.getpid(), signal.SIGTERM)
    assert called == ["later", "earlier"]
    ours.install()
    os.kill(os.getpid(), signal.SIGTERM)
    assert called[2:] == ["later", "ours", "earlier"]


@pytest.mark.usefixtures("handler")
def test_where_sigterm_is_ignored_it_stays_so() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ours = BeforeSigterm(lambda: None)
    ours.install()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    ours.remove()


@pytest.mark.usefixtures("handler")
def test_a_process_that_is_forked_off_only_ends() -> None:
    ours = BeforeSigterm(lambda: Path("acted").touch())
    ours.install()
    code = os.fork()
    if code == 0:
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(code, 0)[1]) == -signal.SIGTERM
    assert not Path("acted").exists()
    ours.remove()


@pytest.mark.usefixtures("handler")
def test_another_thread_leaves_it_alone() -> None:
    before, ours = signal.getsignal(signal.SIGTERM), BeforeSigterm(lambda: None)
    thread = threading.Thread(target=ours.install)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before


# ---------------------------------------------------------------- without a key


@pytest.mark.parametrize(("key", "modes"), [("", ["offline"]), ("0" * 40, [None])])
def test_a_run_of_our_own_is_offline_exactly_without_a_key(
    key: str, modes: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    asked: list[str | None] = []

    def init(mode: str | None, **_: Any) -> Any:
        asked.append(mode)
        run = types.SimpleNamespace(settings=BrokenRun.settings, finish=lambda exit_code: None)
        sys.modules["wandb"].run = run  # type: ignore[attr-defined]
        return run

    class Settings(types.SimpleNamespace):
        model_fields: dict[str, Any] = {}

    broken(monkeypatch, run=None, init=init, Settings=Settings)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "NETRC"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    run = session.WandbRun(project="p")
    for _ in range(3):
        run.open()
    assert asked == modes
    assert run.own
    said = [str(warning.message) for warning in recwarn]
    assert len(said) == (modes == ["offline"])
    assert all("no API key is configured" in line for line in said)
