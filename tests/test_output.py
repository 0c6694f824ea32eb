"""Whatever a terminal or a pipe can't take: no output of ours ends a command or a training."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sb3_trpo_ext
from sb3_trpo_ext.__main__ import patient_output
from sb3_trpo_ext.monitoring.progress import ProgressDescription
from sb3_trpo_ext.zoo import config_file
from tests.monitoring.reports import make_report
from tests.sb3.spaces import make_model

ENCODINGS = ["ascii", "latin-1", "cp1252", "utf-8"]
TINY = ["-n", "256", "--eval-freq", "-1", "--seed", "1", "-P", "-params", "n_steps:64", "batch_size:64"]
SCRIPT = """
import warnings
from sb3_trpo_ext import TRPO
warnings.simplefilter("ignore")
model = TRPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, verbose=1)
model.learn(256, progress_bar=True)
try:
    print(model.last_update.n_updates, "updates")
except BrokenPipeError:
    pass  # the script's own print
"""


def run(
    *command: str, encoding: str = "utf-8", OMP_NUM_THREADS: str = "1", **pipes: Any
) -> subprocess.CompletedProcess[bytes]:
    environ = {**os.environ, "PYTHONPATH": str(Path(sb3_trpo_ext.__file__).parents[1]), "OMP_NUM_THREADS": OMP_NUM_THREADS}
    environ |= {"PYTHONIOENCODING": encoding, "COLUMNS": "200"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **pipes}
    return subprocess.run([sys.executable, *command], env=environ, check=False, **pipes)


class Bar:
    """What the description of SB3's progress bar is written to."""

    n, format_dict, shown = 256, {"elapsed": 1.0}, ""

    def set_description_str(self, text: str) -> None:
        text.encode(sys.stdout.encoding if sys.stdout.encoding in ENCODINGS else "ascii")
        self.shown = text


@pytest.mark.parametrize("encoding", [*ENCODINGS, None, "no such encoding"])
def test_the_progress_bar_shows_only_what_can_be_shown(encoding: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        pass

    Terminal.encoding = encoding  # type: ignore[misc, assignment]
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "200")
    bar, model, description = Bar(), make_model(), ProgressDescription()
    model.last_update = make_report(kl=0.0097, target_kl=0.01)
    description.model = model
    from stable_baselines3.common.callbacks import ProgressBarCallback

    there = ProgressBarCallback()
    there.pbar = bar
    description.locals = {"callback": there}
    description._show()
    assert bar.shown.startswith("KL 0.97δ" if encoding == "utf-8" else "KL 0.97d")


@pytest.fixture(autouse=True)
def _streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back whatever a test does to them."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_without_a_stream_printing_goes_nowhere(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, name, None)
    patient_output()
    print("δ", file=getattr(sys, name), flush=True)


def test_what_is_not_a_file_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (io.StringIO(), type("Cells", (), {})()):
        monkeypatch.setattr(sys, "stdout", stream)
        patient_output()
        assert sys.stdout is stream


@pytest.mark.parametrize(("name", "shown"), [("stdout", b"?"), ("stderr", b"\\u03b4")])
def test_a_pipe_that_was_closed_takes_everything(name: str, shown: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="ascii") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, name, stream)
        patient_output()
        print("KL 0.97δ", file=getattr(sys, name), flush=True)
        assert os.read(reading, 100) == b"KL 0.97" + shown + b"\n"
        os.close(reading)
        for _ in range(3):
            print("to nobody", file=getattr(sys, name), flush=True)


def test_a_terminal_that_is_gone_takes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patient_output()
        os.close(master)
        with pytest.raises(OSError, match="Input/output error"):
            os.write(slave, b"?")
        print("to nobody", flush=True)


def test_an_unbuffered_stream_stays_unbuffered() -> None:
    # The file alone: the package would take seconds to import.
    path = Path(sb3_trpo_ext.__file__).with_name("__main__.py")
    words = f"import os, runpy; runpy.run_path({str(path)!r})['patient_output'](); print('here'); os._exit(0)"
    for flags, shown in ((["-u"], b"here\n"), ([], b"")):
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        done = subprocess.run([sys.executable, *flags, "-c", words], env=environ, capture_output=True)
        assert done.stdout == shown, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_script_with_a_progress_bar_trains_on_any_encoding(encoding: str) -> None:
    done = run("-c", SCRIPT, encoding=encoding)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode(encoding)
    assert "4 updates" in shown
    assert ("δ" if encoding == "utf-8" else "d ") in shown


@pytest.mark.slow
def test_every_command_prints_where_only_ascii_can_be_shown() -> None:
    commands = [
        ["train", "--env", "CartPole-v1", *TINY],
        ["enjoy", "--env", "CartPole-v1", "--no-render", "-n", "50"],
        ["export", "logs/trpo/CartPole-v1_1", "-o", "policy.pt"],
        ["convert-config", str(config_file()), "--to", "mean"],
        ["doctor", "logs"],
        *([name, "-h"] for name in ("train", "replay")),
    ]
    for command in commands:
        done = run("-m", "sb3_trpo_ext", *command, encoding="ascii")
        assert b"Traceback" not in done.stderr, (command, done.stderr)
        assert done.returncode in ((0, 1, 2) if command[0] == "doctor" else (0,)), command
        assert done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["the reader is gone", "no stdout at all"])
def test_a_training_whose_output_nobody_reads_is_a_whole_one(closed: str) -> None:
    if closed == "the reader is gone":
        reading, writing = os.pipe()
        os.close(reading)
        pipes: dict[str, Any] = {"stdout": writing, "stderr": writing}
    else:
        pipes = {"stdout": None, "stderr": None, "preexec_fn": lambda: (os.close(1), os.close(2))}
    # Without a number of threads, so that the line about it is printed.
    done = run("-m", "sb3_trpo_ext", "train", "--env", "CartPole-v1", *TINY, OMP_NUM_THREADS="", **pipes)
    assert done.returncode == 0
    folder = Path("logs/trpo/CartPole-v1_1")
    assert (folder / "updates.jsonl").read_text().count("\n") == 2
    assert (folder / "CartPole-v1.zip").exists()


@pytest.mark.slow
def test_a_script_whose_progress_bar_nobody_sees_goes_on_after_learn() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    # Quiet: what SB3 prints when a model is made is the script's own affair.
    done = run("-c", SCRIPT.replace("verbose=1", "verbose=0") + "model.save('saved')\n", stdout=writing)
    assert Path("saved.zip").exists(), done.stderr
