"""A search may be killed at any moment, and what it keeps is what was done."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from evidence.runs import Run
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from tuning import search as searching
from tuning.objective import do_trial
from tuning.points import CURRENT, params_of, starting_points
from tuning.pruner import RungPruner
from tuning.search import Broken, search
from tuning.study import Tuning, claimed_study, finished_trials, open_study
from tuning.worker import WorkerDied

from tests.scripts.conftest import SCRIPTS
from tests.scripts.made_up_trials import SEEDS, Trainings, make_tuning, score

optuna.logging.set_verbosity(optuna.logging.WARNING)


def do(tuning: Tuning, trainings: Trainings, trials: int = 1) -> list[FrozenTrial]:
    ended = []
    for _ in range(trials):
        with claimed_study(tuning) as study:
            assert study is not None
            ended.append(do_trial(study, tuning, trainings))
    return ended


def test_the_current_entry_is_the_first_trial_and_its_value_the_mean_of_its_seeds(tmp_path: Path) -> None:
    tuning, trainings = make_tuning(tmp_path), Trainings()
    (trial,) = do(tuning, trainings)
    assert trial.params == params_of(tuning.entry)
    assert trial.user_attrs["point"] == CURRENT
    assert trainings.seeds == list(SEEDS)
    assert {run.steps for run in trainings.runs} == {1_000}
    assert trial.value == pytest.approx(score(trainings.runs[1]))
    whole = score(trainings.runs[0])
    rungs = [whole / 4, whole / 2, whole * 3 / 4, whole, whole + 0.5]
    assert trial.intermediate_values == pytest.approx(dict(enumerate(rungs, start=1)))


def test_it_begins_with_what_is_known_to_be_good_then_draws(tmp_path: Path) -> None:
    tuning = make_tuning(tmp_path)
    points = starting_points(tuning.task, tuning.entry)
    trials = do(tuning, Trainings(), len(points) + 4)
    assert [trial.user_attrs.get("point") for trial in trials] == [*points, None, None, None, None]
    assert [trial.params for trial in trials[: len(points)]] == list(points.values())
    assert len({str(sorted(trial.params.items())) for trial in trials}) == len(trials)
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}


def test_a_hopeless_trial_is_given_up_before_its_second_seed(tmp_path: Path) -> None:
    tuning, trainings = make_tuning(tmp_path), Trainings()
    do(tuning, Trainings(), len(starting_points(tuning.task, tuning.entry)))
    with claimed_study(tuning) as study:
        assert study is not None
        study.enqueue_trial({**params_of(tuning.entry), "target_kl": 0.3})
        trial = do_trial(study, tuning, trainings)
    assert trial.state == TrialState.PRUNED
    assert trial.user_attrs["reason"] == f"rung 1: {score(trainings.runs[0]) / 4:.6g}"
    assert trainings.seeds == [100]


@pytest.mark.parametrize("scores_before", [0, 2, 4, 6, 11])
def test_an_interrupted_trial_goes_on_and_no_finished_seed_is_trained_again(tmp_path: Path, scores_before: int) -> None:
    tuning, interrupted, trainings = make_tuning(tmp_path), Trainings(stop_after=scores_before), Trainings()
    with pytest.raises(KeyboardInterrupt):
        do(tuning, interrupted)
    # The starting points wait in front of it: this is the trial that goes on, wherever it stands
    trials = do(tuning, trainings, len(starting_points(tuning.task, tuning.entry)))
    (again,) = [trial for trial in trials if trial.user_attrs.get("point") == CURRENT]
    own = [run.seed for run in trainings.runs if run.entry == interrupted.runs[0].entry]
    assert own == list(SEEDS[scores_before // 4 :])
    (uninterrupted,) = do(make_tuning(tmp_path / "other"), Trainings())
    assert (again.value, again.intermediate_values) == (uninterrupted.value, uninterrupted.intermediate_values)
    study = open_study(tuning)
    assert study is not None
    assert [trial.state.name for trial in study.trials].count("FAIL") == 1
    assert len(finished_trials(study)) == len(trials)


KILLED = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    import optuna
    from rich.console import Console
    from tests.scripts.made_up_trials import Trainings, make_tuning
    from tuning.search import search

    class Slow(Trainings):
        def __call__(self, run):
            for score in super().__call__(run):
                time.sleep(0.05 if run.seed == 100 else 100)
                yield score

    search([make_tuning(Path(sys.argv[1]))], 2, Console(), Slow())
""")


def test_after_sigkill_the_same_command_goes_on(tmp_path: Path, repo: Path) -> None:
    path = os.pathsep.join([SCRIPTS, str(repo), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], env={**os.environ, "PYTHONPATH": path})
    tuning, end = make_tuning(tmp_path), time.monotonic() + 120
    while not (tuning.journal.exists() and b'"seed_100"' in tuning.journal.read_bytes()):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    with claimed_study(tuning) as study:
        assert study is None  # the other process is at it
    process.send_signal(signal.SIGKILL)
    process.wait()
    with tuning.journal.open("ab") as file:
        file.write(b'{"op_code": 9, "worker_i')  # as if it had died while it wrote
    trainings = Trainings()
    search([tuning], 2, Console(quiet=True), trainings)
    assert len(finished_trials(open_study(tuning))) == 2
    # The second seed was being trained: it is trained again, the first is not (of the trial that was put back)
    with claimed_study(tuning) as study:
        assert study is not None
        (put_back,) = [trial for trial in study.trials if "resumes" in trial.user_attrs]
        assert "seed_100" in put_back.user_attrs
        assert [trial.state.name for trial in study.trials].count("RUNNING") == 0


def test_bad_settings_are_pruned_with_their_reason(tmp_path: Path) -> None:
    (trial,) = do(make_tuning(tmp_path), Trainings(refuse=True))
    assert (trial.state, trial.user_attrs["reason"]) == (TrialState.PRUNED, "NonFiniteError: rewards[3] is nan")


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_return_that_is_no_number_is_never_a_value(tmp_path: Path, score: float) -> None:
    with claimed_study(tuning := make_tuning(tmp_path)) as study:
        assert study is not None
        trial = do_trial(study, tuning, lambda run: iter([1.0, score, 1.0, 1.0]))
    assert trial.state == TrialState.PRUNED
    assert str(score) in trial.user_attrs["reason"]
    assert trial.intermediate_values == {1: 1.0}


def test_dying_workers_end_the_search_with_the_cause(tmp_path: Path) -> None:
    def dies(run: Run) -> Iterator[float]:
        yield 1.0
        raise WorkerDied("exit code -9: out of memory")

    tuning = make_tuning(tmp_path)
    with pytest.raises(Broken, match="3 trials in a row died; the last: exit code -9: out of memory"):
        search([tuning], 9, Console(quiet=True), dies)
    assert finished_trials(open_study(tuning)) == []


def test_a_training_that_ends_early_is_no_score(tmp_path: Path) -> None:
    with claimed_study(tuning := make_tuning(tmp_path)) as study:
        assert study is not None
        trial = do_trial(study, tuning, lambda run: iter([1.0, 2.0]))
    assert (trial.state, trial.user_attrs["reason"]) == (TrialState.FAIL, "the training ended after 2 of 4 quarters")


def test_the_task_with_the_fewest_trials_is_next_and_a_task_that_is_taken_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tunings = [make_tuning(tmp_path, task) for task in ("Hopper-v5", "Swimmer-v5", "Walker2d-v5")]
    do(tunings[0], Trainings())
    trainings = Trainings()
    search(tunings, 2, Console(quiet=True), trainings)
    order = [run.task for run in trainings.runs if run.seed == 100]
    assert order == ["Swimmer-v5", "Walker2d-v5", "Hopper-v5", "Swimmer-v5", "Walker2d-v5"]

    monkeypatch.setattr(searching, "WAIT_SECONDS", 0)
    trainings = Trainings(stop_after=12)
    with claimed_study(tunings[0]), pytest.raises(KeyboardInterrupt):
        search(tunings, 3, Console(quiet=True), trainings)
    assert {run.task for run in trainings.runs} == {"Swimmer-v5", "Walker2d-v5"}


def test_a_narrower_space_takes_over_the_trials_that_lie_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = make_tuning(tmp_path)
    before = do(tuning, Trainings(), 14)
    narrow = {**tuning.space, "target_kl": FloatDistribution(0.02, 0.1, log=True)}
    monkeypatch.setattr("tuning.study.TUNING_SPACE", narrow)
    narrower = make_tuning(tmp_path)
    assert narrower.name != tuning.name
    do(narrower, Trainings())
    study = open_study(narrower)
    assert study is not None
    taken = [trial for trial in finished_trials(study) if "imported" in trial.user_attrs]
    expected = [trial for trial in before if 0.02 <= trial.params["target_kl"] <= 0.1]
    assert [(trial.params, trial.value, trial.intermediate_values) for trial in taken] == [
        (trial.params, trial.value, trial.intermediate_values) for trial in expected
    ]
    assert 0 < len(taken) < 14
    assert finished_trials(study)[-1].user_attrs["point"] == CURRENT
    # and the older study is as it was
    assert len(finished_trials(open_study(tuning))) == 14


def test_a_study_whose_beginning_was_interrupted_gets_the_rest_of_its_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = make_tuning(tmp_path)
    points = starting_points(tuning.task, tuning.entry)
    monkeypatch.setattr("tuning.study.starting_points", lambda *_: dict(list(points.items())[:3]))
    with claimed_study(tuning):
        pass
    monkeypatch.undo()
    trials = do(make_tuning(tmp_path), Trainings(), len(points) + 1)
    assert [trial.user_attrs.get("point") for trial in trials] == [*points, None]


def test_a_current_entry_that_has_changed_is_tried_as_a_control(tmp_path: Path) -> None:
    tuning = make_tuning(tmp_path)
    do(tuning, Trainings(), len(starting_points(tuning.task, tuning.entry)))
    for _ in range(2):  # once, however often the study is opened
        changed = make_tuning(tmp_path, gamma=0.995)
        do(changed, Trainings())
    study = open_study(changed)
    assert study is not None
    controls = [trial.params["one_minus_gamma"] for trial in study.trials if trial.user_attrs.get("point") == CURRENT]
    assert controls == pytest.approx([0.01, 0.005])
    assert "RL Zoo" not in {trial.user_attrs.get("point") for trial in study.trials}  # it was the entry of before


def is_pruned(study: optuna.Study, value: float, rung: int, point: str = "") -> bool:
    study.enqueue_trial({}, user_attrs={"point": point})
    trial = study.ask()
    trial.report(value, rung)
    return trial.should_prune()


def test_rungs_keep_their_shares() -> None:
    study = optuna.create_study(direction="maximize", pruner=RungPruner("control"))
    for value in range(10):
        trial = study.ask()
        trial.report(value, 1)
        if value < 3:
            assert not trial.should_prune()  # too few to compare with
        if value >= 6:
            trial.report(value, 4)
        study.tell(trial, state=TrialState.PRUNED)
    # 80 % go on after the first quarter, half after the first seed (of those that came so far: 6 to 9)
    assert [is_pruned(study, value, 1) for value in (1.5, 2.0)] == [True, False]
    assert [is_pruned(study, value, 4) for value in (7.4, 7.6)] == [True, False]
    assert not is_pruned(study, -1.0, 1, "control")
    assert not is_pruned(study, -1.0, 2)  # nobody has been here
