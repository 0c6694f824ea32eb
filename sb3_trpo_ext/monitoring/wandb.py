"""
One run of Weights & Biases: found or started, told things, finished. All that touches ``wandb`` itself is here, lazily.

No failure of W&B is raised, and none takes longer than a bound: it is said once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sb3_trpo_ext.monitoring.bounded import BoundedCalls, say
from sb3_trpo_ext.monitoring.wandb_mode import must_go_offline
from sb3_trpo_ext.monitoring.wandb_rows import AXIS, Binned

CALL_SECONDS, INIT_SECONDS, FINISH_SECONDS = 10.0, 20.0, 60.0
"""What W&B may take. Finishing a run whose TensorBoard is synced takes it 10 s, also offline."""

MARGIN_SECONDS = 20.0
"""W&B's own limits have those lengths; giving up takes it 10 s more, and ours is for a W&B that does not."""

FLUSH_SECONDS = 2.0
"""Of a run that we start: what a ``kill -9`` can lose. W&B's own default is 15 s."""


class WandbRun:
    r"""
    The process's run, or one of our own.

    :param \**arguments: of ``wandb.init``, for a run of our own
    """

    def __init__(self, **arguments: Any):
        self._started: Any = None
        self._arguments = arguments
        self._wandb: Any = None
        self._run: Any = None
        self._calls = BoundedCalls("W&B", CALL_SECONDS)

    @property
    def is_open(self) -> bool:
        """Whether there is a run to tell things."""
        return self._run is not None

    @property
    def current(self) -> Any:
        """What is told things, to be compared only; None if there is no run."""
        return self._run

    @property
    def own(self) -> bool:
        """Whether it was started here."""
        return self._run is not None and self._run is self._started

    @property
    def id(self) -> str | None:
        """W&B's name of the run, for going on with it; None if there is no run."""
        return getattr(self._run, "id", None)

    def go_on_with(self, run_id: str) -> None:
        """
        Have the next run of our own be an earlier one.

        :param run_id: its ``id``
        """
        self._arguments |= {"id": run_id, "resume": "allow"}

    @property
    def syncs_tensorboard(self) -> bool:
        """Whether W&B reads along what TensorBoard is told: asked for with the run, or by ``wandb.tensorboard.patch``."""
        patched = getattr(self._wandb, "patched", None) or {}
        return bool(self._tell("its settings", lambda run: run.settings.sync_tensorboard) or patched.get("tensorboard"))

    @property
    def started(self) -> float | None:
        """When the run was started, seconds of the epoch; None if it doesn't say."""
        started = self._tell("its start", lambda run: getattr(run, "start_time", None))
        return started if isinstance(started, float) else None

    def open(self) -> None:
        """
        Take the run that there is, or start one: offline where no key is configured, or the server does not answer.

        What is open stays so only while it is wandb's current run; failures of another run do not count against the next.
        """
        try:
            import wandb
        except Exception as error:  # not installed, or broken: no reason not to train
            say(f"W&B: not available ({error}); training goes on without it (pip install wandb)", stacklevel=4)
            return
        self._wandb = wandb
        there = getattr(wandb, "run", None)
        if self.is_open and self._run is there:
            return
        self._calls = BoundedCalls("W&B", CALL_SECONDS)
        self._run = there
        if self.is_open:
            return
        offline = must_go_offline()
        if offline:
            say("W&B: no API key is configured: this run is offline; `wandb sync` sends it later", stacklevel=4)
        for mode in ("offline",) if offline else (None, "offline"):
            if not self.is_open:
                self._run = self._try("starting a run", partial(self._start, mode), INIT_SECONDS + MARGIN_SECONDS)
        self._started = self._run

    def _start(self, mode: str | None) -> Any:
        wanted = {
            "init_timeout": INIT_SECONDS,
            "finish_timeout": FINISH_SECONDS,
            "x_transaction_log_flush_interval": FLUSH_SECONDS,
        }
        known = self._wandb.Settings.model_fields
        settings = self._wandb.Settings(**{name: value for name, value in wanted.items() if name in known})
        return self._wandb.init(**self._arguments, mode=mode, settings=settings)

    def describe(self, config: dict[str, Any]) -> None:
        """
        Set config. What else is in it stays.

        :param config: plain values
        """
        self._tell("the config", lambda run: run.config.update(config, allow_val_change=True))

    def set_axes(self) -> None:
        """Have all drawn over environment steps."""
        self._tell("the axis", lambda run: run.define_metric(AXIS, hidden=True))
        self._tell("the axes", lambda run: run.define_metric("*", step_metric=AXIS))

    def log(self, row: dict[str, Any], histograms: dict[str, Binned] | None = None) -> None:
        """
        Add a row. Not where TensorBoard is synced: it would come twice.

        :param row: numbers by key, with the axis
        :param histograms: counts and edges by key
        """

        def send(run: Any) -> None:
            drawn = {name: self._wandb.Histogram(np_histogram=counts) for name, counts in (histograms or {}).items()}
            run.log(row | drawn)

        self._tell("logging", send)

    def summarise(self, values: dict[str, float]) -> None:
        """
        Set summaries.

        :param values: by name
        """
        self._tell("the summary", lambda run: run.summary.update(values))

    def alert(self, alert: dict[str, Any]) -> None:
        """
        Send an alert.

        :param alert: title, text and level
        """
        self._tell("an alert", lambda run: run.alert(**alert))

    def keep(self, kind: str, folder: Path, files: list[Path], metadata: dict[str, Any]) -> None:
        """
        Log files as an artifact. W&B copies them to its data folder, from where they are sent now or by ``wandb sync``.

        :param kind: type of the artifact, and beginning of its name
        :param folder: that their names are relative to
        :param files: which; none: no artifact
        :param metadata: plain values
        """

        def send(run: Any) -> None:
            artifact = self._wandb.Artifact(f"{kind}-{run.id}", type=kind, metadata=metadata)
            for file in files:
                artifact.add_file(str(file), name=file.relative_to(folder).as_posix())
            run.log_artifact(artifact)

        if files:
            self._tell(f"the artifact of {kind}", send, FINISH_SECONDS)

    def finish(self, exit_code: int | None = None) -> None:
        """
        Finish it; done twice it is done once.

        :param exit_code: of the process, if it ends for another reason than that it is done
        """
        run, self._run = self._run, None
        if run is not None:
            self._try("finishing the run", lambda: run.finish(exit_code=exit_code), FINISH_SECONDS + MARGIN_SECONDS)

    def _tell(self, what: str, call: Callable[[Any], Any], seconds: float | None = None) -> Any:
        run = self._run
        return None if run is None else self._try(what, lambda: call(run), seconds)

    def _try(self, what: str, call: Callable[[], Any], seconds: float | None = None) -> Any:
        return self._calls.try_to(what, call, seconds)
