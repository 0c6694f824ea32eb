"""``python -m sb3_trpo_ext doctor``: verdict, exit code, JSON, 80 columns, and how it refuses."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sb3_trpo_ext.doctor.cli import MISUSE, main
from sb3_trpo_ext.doctor.read import read_run
from sb3_trpo_ext.zoo import cli as zoo
from tests.mutation import mutated

Runs = Callable[[str], Path]


def test_exit_codes_and_several_folders(ours: Runs, contrib: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(ours("healthy"))]) == 0
    assert main([str(contrib)]) == 0
    assert main([str(ours("TR105"))]) == 1
    assert main([str(folder) for folder in (ours("healthy"), ours("TR104"), ours("TR105"))]) == 2
    assert capsys.readouterr().out.count("healthy") >= 2


def test_the_screen_at_80_columns(ours: Runs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shutil.copytree(ours("TR404"), "logs/run_1")
    assert main(["logs"]) == 1
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert [line for line in lines if len(line.rstrip()) > 80 and "replay:" not in line] == []
    # Worst first, each with what, evidence, since when and what to try.
    assert out.index("warning  TR404 damping at its bound") < out.index("warning  TR403 starved solve")
    text = " ".join(out.split())
    for part in (
        "2 warnings sb3_trpo_ext, 12 updates, 3,072 steps",
        "Damping has stayed at the upper end of its range",
        "evidence: cg_damping 0.0011, high 0.0011",
        "since: update 7 (1,792 steps), in 4 updates, to the end",
        "try: Widen cg_damping_range or raise cg_damping; lower target_kl.",
    ):
        assert part in text
    # Whole, so that it can be copied.
    assert "    replay: python -m sb3_trpo_ext replay logs/run_1/dumps/update_000007_alarm_TR404.json" in lines


def test_json(ours: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(ours("TR303")), str(ours("healthy")), "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert (told["verdict"], told["exit_code"]) == ("critical", 2)
    assert [(run["verdict"], run["exit_code"]) for run in told["runs"]] == [("critical", 2), ("healthy", 0)]
    first = told["runs"][0]["findings"][0]
    assert first["code"] == "TR303"
    assert first["severity"] == "critical"
    assert first["evidence"]["share"] == 1.0
    rows = map(json.loads, (ours("TR303") / "alarms.jsonl").read_text().splitlines())
    raised = next(row for row in rows if row["code"] == "TR303")
    assert (first["since_update"], first["since_steps"]) == (raised["n_updates"], raised["num_timesteps"])
    assert first["updates"] == told["runs"][0]["n_updates"] - first["since_update"] + 1
    assert first["ongoing"] is True
    assert first["meaning"]
    assert first["remedy"]


def test_the_form_of_json_is_the_documented_one(ours: Runs, capsys: pytest.CaptureFixture[str], repo: Path) -> None:
    main([str(ours("TR303")), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["format"] == 1
    table = (repo / "docs/doctor.md").read_text().split("## JSON")[1].split("\n## ")[0]
    documented = [
        [name.strip("` ") for name in row.split("|")[2].split(",")]
        for row in table.splitlines()
        if row.startswith("| ") and "`" in row
    ]
    (run,) = told["runs"]
    assert [[*told], [*run], [*run["findings"][0]]] == documented


def test_runs_are_found_below_a_folder_and_what_was_put_aside_is_none(ours: Runs, contrib: Path) -> None:
    shutil.copytree(ours("healthy"), "logs/trpo/Small_1")
    shutil.copytree(ours("TR104"), "logs/trpo/Small_1/previous_1")
    shutil.copytree(ours("TR105"), "logs/trpo/Small_2")
    # TensorBoard files below a run are that run's.
    (events,) = contrib.glob("events.*")
    Path("logs/trpo/Small_2/tb/TRPO_1").mkdir(parents=True)
    shutil.copy(events, "logs/trpo/Small_2/tb/TRPO_1")
    assert main(["logs"]) == 1
    assert main(["logs/trpo/Small_1"]) == 0


def test_a_folder_without_runs(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty/in/it").mkdir(parents=True)
    assert main(["empty"]) == 1
    assert "DR001 nothing to read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not a directory"),
        ([], "the following arguments are required: LOGDIR"),
        ([".", "--html", "no/such/folder/page.html"], "no/such/folder/page.html: No such file or directory"),
        ([".", "--target-kl", "-1"], "--target-kl -1.0 is impossible"),
        (["n" * 300], f"{'n' * 239}…: File name too long"),
        (["a\0b"], "a b: stat: embedded null" if sys.version_info >= (3, 13) else "a b: embedded null"),  # Python's words
        ([".", "--html", "."], ".: Is a directory"),
        ([".", "--html", "n" * 300 + ".html"], f"{'n' * 239}…: File name too long"),
        ([".", "--what"], "unrecognized arguments: --what"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = ended.code
    assert code == MISUSE == 3
    err = capsys.readouterr().err
    assert err.startswith(f"sb3_trpo_ext doctor: {message}")
    assert err.count("\n") == 1


def test_it_is_a_command_of_the_package_and_needs_no_zoo(ours: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "sb3_trpo_ext", "doctor", str(ours("TR104"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "TR104 rejected steps" in done.stdout
    assert "rl_zoo3" not in done.stderr
    assert "plotly" not in done.stderr
    assert zoo.run(["-h"], {"doctor": "what it does"}) == 0
    assert "doctor          what it does" in capsys.readouterr().out


def test_a_folder_that_may_not_be_looked_at(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Path("logs/closed").mkdir(parents=True)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refuse)
        assert main(["logs"]) == MISUSE
    assert capsys.readouterr().err == "sb3_trpo_ext doctor: logs: Permission denied\n"
    with monkeypatch.context() as patch:
        patch.setattr("os.scandir", refuse)
        assert main(["logs"]) == 1
    assert "DR002 unreadable file" in capsys.readouterr().out


def test_a_page_that_can_not_be_written_leaves_nothing(ours: Runs) -> None:
    Path("there").mkdir()
    assert main([str(ours("healthy")), "--html", "there"]) == MISUSE
    assert [path.name for path in Path().rglob("*")] == ["there"]
    assert main([str(ours("healthy")), "--html", "there/page.html"]) == 0
    assert Path("there/page.html").stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    Path("probe").touch()
    return 0o666 & ~Path("probe").stat().st_mode


@pytest.mark.parametrize("more", [["--json"], []])
def test_who_reads_no_further_gets_no_traceback(more: list[str], ours: Runs) -> None:
    command = [sys.executable, "-m", "sb3_trpo_ext", "doctor", str(ours("TR104")), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 2


def test_a_folder_that_is_named_twice_is_looked_at_once(ours: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(ours("healthy"), "logs/a")
    assert main(["logs", "logs/", "logs/a", "./logs/a", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 1


@pytest.mark.parametrize("module", ["tensorboard", "yaml", "rich"])
def test_without_its_packages_it_says_which(module: str) -> None:
    script = "import runpy; sys.argv = ['x', 'doctor', '.']; runpy.run_module('sb3_trpo_ext', run_name='__main__')"
    blocked = f"import sb3_trpo_ext, sys; [sys.modules.pop(n) for n in list(sys.modules) if n.split('.')[0] == {module!r}]; "
    blocked += f"sys.modules[{module!r}] = None; {script}"
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=False)
    assert done.returncode == MISUSE
    assert f"The doctor needs {module}" in done.stderr


@pytest.mark.slow
def test_the_zoos_folders_of_ours_and_of_sb3_contrib(capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--env", "CartPole-v1", "-n", "6144", "--eval-freq", "1000", "--verbose", "0", "--num-threads", "1", "--track"]
    ours = [sys.executable, "-m", "sb3_trpo_ext", "train", *common]
    theirs = [sys.executable, "-m", "rl_zoo3.train", "--algo", "trpo", "-f", "their_logs", *common]
    pytest.importorskip("wandb")
    for command in (ours, theirs):
        subprocess.run(command, check=True, capture_output=True)
    capsys.readouterr()
    assert main(["logs", "their_logs", "runs", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    # Their TensorBoard folders, which args.yml names, are theirs.
    assert [(run["environment"], run["algorithm"], run["n_updates"]) for run in runs] == [
        ("CartPole-v1", "sb3_trpo_ext", 6),
        ("CartPole-v1", "sb3-contrib", 5),
    ]
    assert [[finding["code"] for finding in run["findings"]] for run in runs] == [["DR015"], ["DR015"]]
    assert [run["verdict"] for run in runs] == ["not judged", "not judged"]
    what_wandb_has_kept()


def what_wandb_has_kept() -> None:
    """The same updates as the record; and what is cut off, mutated or garbage is a finding."""
    files = {read_run(file.parent).algorithm: file for file in Path("wandb").glob("offline-run-*/*.wandb")}
    assert files.keys() == {"sb3_trpo_ext", "sb3-contrib"}
    record = read_run(Path("logs/trpo/CartPole-v1_1")).points.values()
    # Without the links to TensorBoard's files that W&B keeps beside it.
    Path("alone").mkdir()
    shutil.copy(files["sb3_trpo_ext"], "alone")
    run = read_run(Path("alone"))
    assert run.environment == "CartPole-v1"
    assert [point["steps"] for point in run.points.values()] == [point["steps"] for point in record]
    kls = [pytest.approx(point["kl_joint"], rel=1e-5) for point in record]
    assert [point["kl_joint"] for point in run.points.values()] == kls
    Path("spoilt").mkdir()
    data, rng = files["sb3-contrib"].read_bytes(), random.Random(0)
    for number in range(300):
        Path("spoilt/run-x.wandb").write_bytes(mutated(data, rng))
        spoilt = read_run(Path("spoilt"))
        assert spoilt.points.seen <= 6, number
    Path("spoilt/run-x.wandb").write_bytes(bytes(range(256)) * 10)
    assert [finding.code for finding in read_run(Path("spoilt")).findings] == ["DR002"]
