"""What is shown of an update on SB3's progress bar."""

import re
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tqdm
from stable_baselines3.common import callbacks as sb3_callbacks
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    EvalCallback,
    EventCallback,
    EveryNTimesteps,
    ProgressBarCallback,
)

from sb3_trpo_ext.monitoring.progress import ProgressDescription, describe
from sb3_trpo_ext.monitoring.tree import callbacks_in
from tests.monitoring.reports import make_report
from tests.sb3.spaces import Nothing, make_env, make_model

SHOWN = re.compile(r"(KL ?)?(\d?\.\d\dδ|no step)( +H ?-?[\d.]+)?( +R ?-?[\d.]+)?$")


@pytest.mark.parametrize(
    ("room", "text"),
    [
        (30, "KL 0.97δ  H 3.1  R -1234"),
        (24, "KL 0.97δ  H 3.1  R -1234"),
        (23, "KL0.97δ H3.1 R-1234"),
        (18, ".97δ H3.1 R-1234"),
        (15, ".97δ R-1234"),
        (5, ".97δ"),
        (-20, ".97δ"),
    ],
)
def test_it_is_as_long_as_there_is_room(room: int, text: str) -> None:
    assert describe(make_report(kl=0.0097, target_kl=0.01, entropy=3.14), -1234.4, room) == text


def test_what_is_not_there_is_not_shown() -> None:
    report = make_report(kl=0.01, target_kl=0.01, entropy=None)
    assert describe(report, None, 40) == "KL 1.00δ"
    assert describe(report, 21.349, 40) == "KL 1.00δ  R 21.3"
    rejected = make_report(status="line_search_failed", kl=0.0, target_kl=0.01, entropy=-12.34)
    assert describe(rejected, 1e6, 40) == "no step  H -12  R 1e+06"
    assert describe(rejected, None, 12) == "no step H-12"
    assert describe(rejected, None, 3) == "no step"


class Witness(BaseCallback):
    """What stands on the bar at every step, as rich has it."""

    def __init__(self, bar: ProgressBarCallback | None = None):
        super().__init__()
        self.bar, self.seen = bar, []

    def _on_step(self) -> bool:
        bars = (
            [self.bar]
            if self.bar
            else [part for part in callbacks_in(self.locals["callback"]) if isinstance(part, ProgressBarCallback)]
        )
        self.seen.append([bar.pbar._prog.tasks[0].description for bar in bars])
        return True


def by_update(witness: Witness, n_steps: int) -> list[str]:
    """The one description during each rollout."""
    rollouts = [witness.seen[start : start + n_steps] for start in range(0, len(witness.seen), n_steps)]
    texts = [{text for seen in rollout[1:] for text in seen} for rollout in rollouts]
    assert all(len(each) == 1 for each in texts)
    return [each.pop() for each in texts]


def test_learn_with_a_progress_bar_shows_every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    witness, reports = Witness(), []

    class Reports(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            reports.append((self.model.last_update, [info["r"] for info in self.model.ep_info_buffer]))

    make_model().learn(256, callback=[witness, Reports()], progress_bar=True)
    first, *texts = by_update(witness, 32)
    assert first == ""
    assert len(texts) == 3
    for text, (report, returns) in zip(texts, reports[1:], strict=True):
        mean = sum(returns) / len(returns)
        assert text == f"KL {report.kl / 0.01:.2f}δ  H {report.entropy:.2g}  R {mean:.3g}"


class Event(EventCallback):
    def _on_step(self) -> bool:
        return True


NESTED: dict[str, Callable[[ProgressBarCallback], Any]] = {
    "alone": lambda bar: bar,
    "the Zoo's -P": lambda bar: [bar, EvalCallback(make_env(n_envs=1), eval_freq=10_000)],
    "last": lambda bar: [Nothing(), bar],
    "lists in lists": lambda bar: CallbackList([Nothing(), CallbackList([CallbackList([bar]), Nothing()])]),
    "of an event": lambda bar: [Event(bar)],
    "of an event's list": lambda bar: EveryNTimesteps(10_000, CallbackList([bar])),
    "after evaluations": lambda bar: [EvalCallback(make_env(n_envs=1), callback_after_eval=bar, eval_freq=10_000)],
}


@pytest.mark.parametrize("where", NESTED)
def test_a_bar_among_the_callbacks_is_found(where: str) -> None:
    bar, model = ProgressBarCallback(), make_model()
    model.learn(192, callback=NESTED[where](bar))
    assert bar.pbar.disable or "event" in where or "evaluations" in where  # which don't tell it that training ends
    # The last update's, although the bar has closed: it is described before that.
    shown = bar.pbar._prog.tasks[0].description
    assert SHOWN.match(shown)
    assert f"{model.last_update.kl / 0.01:.2f}δ".removeprefix("0") in shown
    bar.pbar.close()


def test_several_bars_show_the_same() -> None:
    bar, witness = ProgressBarCallback(), Witness()
    make_model().learn(128, callback=[bar, witness], progress_bar=True)
    assert len(witness.seen[-1]) == 2
    assert len(set(witness.seen[-1])) == 1
    assert SHOWN.match(witness.seen[-1][0])


def test_a_bar_that_is_closed_or_never_ran_is_left_alone() -> None:
    class Closes(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 40:
                bar.pbar.close()
            return True

    bar = ProgressBarCallback()
    make_model().learn(192, callback=[bar, Closes()])
    shown = bar.pbar._prog.tasks[0].description
    never = ProgressBarCallback()
    observer = ProgressDescription()
    observer.model = make_model()
    observer.model.last_update, observer.model.ep_info_buffer = make_report(), deque()
    observer.locals = {"callback": CallbackList([never, bar])}
    observer.on_rollout_start()
    observer.on_training_end()
    observer.on_training_end()
    assert bar.pbar._prog.tasks[0].description == shown


def test_without_tqdm_and_rich_training_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sb3_callbacks, "tqdm", None)
    with pytest.raises(ImportError, match="tqdm and rich"):
        make_model().learn(64, progress_bar=True)
    assert make_model().learn(128).last_update.n_updates == 2


def test_a_bar_of_plain_tqdm_is_described_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sb3_callbacks, "tqdm", tqdm.tqdm)
    monkeypatch.setenv("COLUMNS", "120")
    make_model().learn(128, progress_bar=True)
    assert re.search(r"KL \d\.\d\dδ  H [\d.]+", capsys.readouterr().err)


@pytest.mark.parametrize("columns", ["120", "80", "60", "20"])
def test_in_a_narrow_terminal_the_bar_keeps_to_its_line(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where SB3's own bar fits: it needs about 60 columns."""
    monkeypatch.setenv("COLUMNS", columns)
    make_model().learn(1_000_000, callback=lambda scope, _: scope["self"].num_timesteps < 500, progress_bar=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert any("δ" in line for line in lines)
    if int(columns) >= 80:
        assert len(lines) == 1
        assert re.match(r"(KL ?)?\d?\.\d\dδ +H ?[\d.]+ +R ?-?[\d.]+ .* it/s \]", lines[0].strip())


def test_functions_and_callbacks_of_a_user_are_called_as_before(tmp_path: Path) -> None:
    calls: list[str] = []
    for callback in (lambda *_: calls.append("function") is None, None, [], [Nothing()]):
        make_model().learn(64, callback=callback)
    assert len(calls) == 32
    model = make_model()
    model.learn(640, callback=lambda *_: False)
    assert model.num_timesteps == 2  # a function may still stop it
