"""Progress, on a terminal and in a log file: a line a finished run, and bars with the time left where they can move."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from evidence.runs import Run
from evidence.store import Store

LOG_LINES = 15


def show_seconds(seconds: float) -> str:
    """
    Write a duration.

    :param seconds: how long
    :return: in the two largest units
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


class ProgressDisplay:
    """
    Shows what a runner does.

    :param runs: what it was given
    :param store: where results are
    :param console: where to show it
    """

    def __init__(self, runs: list[Run], store: Store, console: Console):
        self.runs, self.store, self.console = runs, store, console
        self._steps = {run.id: 0 for run in runs}
        self._ended = 0
        self._begin = time.monotonic()
        self._bars: dict[str, TaskID] = {}
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %  {task.fields[left]}"))
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._all = self._progress.add_task("all runs", total=max(1, sum(run.steps for run in runs)), left="")

    def __enter__(self) -> ProgressDisplay:
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """
        Stop drawing.

        :param kind: of an exception
        :param error: the exception
        :param trace: where it came from
        """
        self._progress.stop()

    def time_left(self) -> float | None:
        """Seconds left at the speed so far; None before there is one."""
        done = sum(self._steps.values())
        left = sum(run.steps for run in self.runs) - done
        elapsed = time.monotonic() - self._begin
        return elapsed * left / done if done else None

    def started(self, run: Run) -> None:
        """
        Give a run its bar.

        :param run: the run
        """
        self._bars[run.id] = self._progress.add_task(escape(run.title), total=max(1, run.steps), left="")

    def advanced(self, run: Run, steps: int) -> None:
        """
        Move a run's bar.

        :param run: the run
        :param steps: steps done
        """
        self._steps[run.id] = min(steps, run.steps)
        self._progress.update(self._bars[run.id], completed=steps)
        left = self.time_left()
        text = "" if left is None else f"{show_seconds(left)} left"
        self._progress.update(self._all, completed=sum(self._steps.values()), left=text)

    def ended(self, run: Run, error: str | None, log: str) -> None:
        """
        Say how a run ended.

        :param run: the run
        :param error: what went wrong, if anything
        :param log: what it printed
        """
        self._ended += 1
        self._steps[run.id] = run.steps
        if run.id in self._bars:
            self._progress.remove_task(self._bars.pop(run.id))
        place = f"[{self._ended}/{len(self.runs)}] {run.title}: "
        left = self.time_left()
        rest = f"; {show_seconds(left)} left" if left else ""
        text = f"FAILED: {error}" if error else self._result(run)
        self.console.print(place + text + rest, style="red" if error else None, markup=False, highlight=False, soft_wrap=True)
        if error:
            for line in log.splitlines()[-LOG_LINES:]:
                self.console.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)

    def _result(self, run: Run) -> str:
        row = next(row for row in self.store.rows("runs") if row["run"] == run.id)
        spread = f"{float(row['return_mean']):.1f} ± {float(row['return_std']):.1f} ({row['episodes']} episodes)"
        return f"return {spread}, {show_seconds(float(row['seconds']))}"
