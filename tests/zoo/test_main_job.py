"""``make run``: the closing screen, what it evaluates, and how it refuses."""

import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from rich.console import Console

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.zoo import screen
from tests.monitoring.reports import make_report

ROW = {"status": "accepted", "kl": 0.029, "kl_joint": 0.029, "target_kl": 0.03, "kl_reduction": "joint"}


@pytest.fixture
def main_job(repo: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("main_job", repo / "scripts" / "main_job.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["main_job"] = importlib.util.module_from_spec(spec)  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return module


def finished_run(main_job: ModuleType, rows: list[str]) -> object:
    """What training leaves behind, in little."""
    run = main_job.Run("Hopper-v5", Path("logs/trpo/Hopper-v5_3"), "abc")
    run.params.mkdir(parents=True)
    (run.params / "args.yml").write_text(yaml.dump({"seed": 0, "tensorboard_log": "runs/x"}))
    (run.folder / "updates.jsonl").write_text("\n".join(rows))
    return run


@pytest.mark.parametrize("kwargs", [{}, {"use_sde": True}, {"policy_kwargs": {"net_arch": [8], "ortho_init": False}}])
def test_before_is_the_policy_that_training_began_with(main_job: ModuleType, kwargs: dict[str, object]) -> None:
    model = TRPO("MlpPolicy", "Pendulum-v1", seed=3, device="cpu", **kwargs)
    initial = {name: value.clone() for name, value in model.policy.state_dict().items()}
    for parameter in model.policy.parameters():
        parameter.data.add_(1.0)
    rebuilt = main_job.untrained_policy(model, 3).state_dict()
    assert rebuilt.keys() == initial.keys()
    assert all(torch.equal(rebuilt[name], initial[name]) for name in initial)


def test_the_screen_counts_updates_and_shows_the_largest_kl(main_job: ModuleType) -> None:
    rejected = {**ROW, "status": "line_search_failed", "kl": 0.0, "kl_joint": 0.0}
    run = finished_run(main_job, [json.dumps(row) for row in (ROW, rejected, {**ROW, "kl": 0.01})] + ['{"status": "acc'])
    console = Console(file=io.StringIO(), width=80)
    main_job.closing_screen(run, {"before": (20.0, 1.0), "after": (900.25, 7.0)}, console)
    text = console.file.getvalue()
    for part in ("20.0 ± 1.0", "900.2 ± 7.0", "2 accepted of 3", "0.029, bound 0.03 (joint)", "logs/trpo/Hopper-v5_3"):
        assert part in text
    mean = {**ROW, "kl": 0.009, "kl_joint": 0.027, "target_kl": 0.01, "kl_reduction": "mean"}
    (run.folder / "updates.jsonl").write_text(json.dumps(mean))
    assert ("largest KL", "0.009, bound 0.01 (mean over action dimensions; joint: 0.027)") in main_job.trust_region(run)


@pytest.mark.parametrize(
    ("window", "renderer", "env_id", "advised", "not_advised"),
    [
        (True, None, "Hopper-v5", ["enjoy {}", "record_video {} -n 400"], ["--no-render"]),
        (False, "egl", "Hopper-v5", ["enjoy {} --no-render", "record_video {} -n 400"], []),
        (False, None, "Hopper-v5", ["enjoy {} --no-render"], ["record_video"]),
        (False, None, "CartPole-v1", ["enjoy {} --no-render", "record_video {} -n 400"], []),
    ],
    ids=["a screen", "none, but EGL", "neither", "neither, and pygame"],
)
def test_only_what_works_on_this_machine_is_advised(
    main_job: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    window: bool,
    renderer: str | None,
    env_id: str,
    advised: list[str],
    not_advised: list[str],
) -> None:
    monkeypatch.setattr(screen, "has_screen", lambda _: window)
    monkeypatch.setattr(screen, "renderer", lambda: renderer)
    commands = main_job.next_commands(main_job.Run(env_id, Path(f"logs/trpo/{env_id}_3"), "abc"), "runs")
    lines = [line.partition(" -m sb3_trpo_ext ")[2] for line in commands.values()]
    assert [line.format(f"--env {env_id} --exp-id 3") for line in advised] == sorted(filter(None, lines))
    text = str(commands)
    assert not any(words in text for words in [*not_advised, "MUJOCO_GL=egl"])
    assert ("apt-get install" in text) is (not window and renderer is None and env_id == "Hopper-v5")


def test_missing_reports_are_no_crash(main_job: ModuleType) -> None:
    run = finished_run(main_job, [])
    (run.folder / "updates.jsonl").unlink()
    assert main_job.trust_region(run) == [("updates", "no reports (updates.jsonl) found")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "Hoper-v5"], "Did you mean: `Hopper`?"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--seed", "-1"], "the seed in"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_makes_nothing(
    main_job: ModuleType, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main_job.parse_arguments(arguments)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_has_the_last_word(main_job: ModuleType) -> None:
    rejected = [make_report(n, status="line_search_failed", target_kl=0.01) for n in range(1, 12)]
    run = finished_run(main_job, [*(report.to_json() for report in rejected), ""])
    console = Console(file=io.StringIO(), width=80)
    main_job.diagnose(run, console)
    text = console.file.getvalue()
    assert "1 critical" in text
    for part in ("critical TR104 rejected steps", "evidence: rejected_share 1", "since: update 10", "try: "):
        assert part in text
    assert "logs/trpo/Hopper-v5_3/report.html" in text
    assert "python -m sb3_trpo_ext doctor logs/trpo/Hopper-v5_3" in text
    assert "TR104 rejected steps" in (run.folder / "report.html").read_text()


def test_commands_name_the_python_that_ran_it(main_job: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished_run(main_job, [make_report(1).to_json(), ""])
    monkeypatch.setattr(screen, "renderer", lambda: None)

    def lines() -> list[str]:
        console = Console(file=io.StringIO(), width=80)
        main_job.diagnose(run, console)
        return [*main_job.next_commands(run, "runs").values(), console.file.getvalue()]

    monkeypatch.setattr(sys, "executable", str(Path.cwd() / ".venv" / "bin" / "python"))  # as in `make run`, not activated
    assert all(".venv/bin/python -" in line for line in lines())
    monkeypatch.setattr(sys, "executable", "/elsewhere/bin/python")
    assert not any("bin/python" in line for line in lines())


@pytest.mark.slow
def test_the_main_job_from_end_to_end(repo: Path) -> None:
    command = [sys.executable, str(repo / "scripts" / "main_job.py"), "--env", "InvertedPendulum-v5", "--steps", "24000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "accepted of 3" in done.stdout
    assert "Doctor" in done.stdout
    folder = Path("logs/trpo/InvertedPendulum-v5_1")
    for name in ("progress.csv", "updates.jsonl", "advantages.npy", "vf_loss.npy", "InvertedPendulum-v5.zip", "report.html"):
        assert (folder / name).is_file(), name
    assert len(list(Path("wandb").glob("offline-run-*"))) == 1
    assert len(list(Path("runs").glob("*/*/*/events.out.tfevents.*"))) == 1
