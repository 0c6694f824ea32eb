"""What a host of the repository reads: the workflow, the forms, the hooks and the citation."""

import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import sb3_trpo_ext

FILES = (
    ".github/workflows/ci.yml",
    ".github/ISSUE_TEMPLATE/bug_report.yml",
    ".github/ISSUE_TEMPLATE/feature_request.yml",
    ".github/ISSUE_TEMPLATE/config.yml",
    ".pre-commit-config.yaml",
    "CITATION.cff",
)


def read(repo: Path, name: str) -> Any:
    return yaml.safe_load((repo / name).read_text())


def test_the_workflow_runs_what_ci_runs_on_a_python_that_is_classified(repo: Path) -> None:
    job = read(repo, ".github/workflows/ci.yml")["jobs"]["ci"]
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
    assert (repo / ".ci/run").is_file()
    project = (repo / "pyproject.toml").read_text()
    assert all(f'"Programming Language :: Python :: {version}"' in project for version in job["strategy"]["matrix"]["python"])


@pytest.mark.parametrize(
    ("until", "slow", "skipped"), [("1", True, True), ("1", False, False), ("9e9", True, False), ("", True, False)]
)
def test_slow_tests_are_skipped_once_the_time_of_a_run_is_up(
    until: str, slow: bool, skipped: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = request.config.pluginmanager.get_plugins()
    [ours] = [each for each in plugins if str(getattr(each, "__file__", "")) == str(Path(__file__).with_name("conftest.py"))]
    monkeypatch.setenv("SLOW_TESTS_UNTIL", until)
    item: Any = SimpleNamespace(get_closest_marker=lambda name: slow or None)
    with pytest.raises(pytest.skip.Exception, match="no time is left") if skipped else nullcontext():
        ours.pytest_runtest_setup(item)


def test_the_hook_calls_targets_that_exist(repo: Path) -> None:
    ((hook,),) = [each["hooks"] for each in read(repo, ".pre-commit-config.yaml")["repos"]]
    targets = set(re.findall(r"^([a-z-]+):", (repo / "Makefile").read_text(), re.MULTILINE))
    make, *asked = hook["entry"].split()
    assert make == "make"
    assert asked
    assert set(asked) <= targets


@pytest.mark.parametrize("name", ["bug_report", "feature_request"])
def test_a_form_has_what_its_host_asks_for(repo: Path, name: str) -> None:
    form = read(repo, f".github/ISSUE_TEMPLATE/{name}.yml")
    assert {"name", "description", "body"} <= set(form)
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    ids = [field["id"] for field in fields]
    assert len(ids) == len(set(ids))


def test_a_bug_report_asks_for_the_doctors_word_and_for_versions(repo: Path) -> None:
    fields = {field["id"]: field for field in read(repo, ".github/ISSUE_TEMPLATE/bug_report.yml")["body"] if "id" in field}
    for name, says in (("doctor", "sb3_trpo_ext doctor"), ("versions", "get_system_info")):
        assert fields[name]["validations"] == {"required": True}
        assert says in fields[name]["attributes"]["description"]


def test_the_command_that_asks_for_versions_runs(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = {field.get("id"): field for field in read(repo, ".github/ISSUE_TEMPLATE/bug_report.yml")["body"]}
    (code,) = re.findall(r'`python -c "(.*)"`', fields["versions"]["attributes"]["description"])
    exec(code, {})
    out = capsys.readouterr().out
    assert f"sb3_trpo_ext {sb3_trpo_ext.__version__}\n" in out
    assert "- PyTorch: " in out


def test_one_version(repo: Path) -> None:
    project = (repo / "pyproject.toml").read_text()
    assert re.findall(r"^(?:dynamic|version) = .*$", project, re.MULTILINE) == ['dynamic = ["version"]']
    assert read(repo, "CITATION.cff")["version"] == sb3_trpo_ext.__version__
    assert f"\n## Release {sb3_trpo_ext.__version__} " in (repo / "docs/changelog.md").read_text()


def test_no_machine_and_no_host_of_ours_is_named(repo: Path) -> None:
    for name in FILES:
        text = (repo / name).read_text()
        assert yaml.safe_load(text)
        assert set(re.findall(r"https?://([\w.-]+)", text)) <= {"proceedings.mlr.press", "jmlr.org"}, name
