"""Run sb3-contrib's own TRPO tests on our TRPO.

    python scripts/run_contrib_tests.py

The tests come from the source distribution of the installed sb3-contrib, by pip, into .cache/ (their code is not ours to
commit). `sb3_contrib.TRPO` is ours before a test module is imported; the tests that concern TRPO are kept: parametrised with
the class, or named after it. It fails unless every one of them passes and has constructed our class, and unless there are as
many as there should be.
"""

import functools
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Generator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import sb3_contrib
import sb3_contrib.trpo

import sb3_trpo_ext

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "contrib-tests"

# Counted by hand in that release's tests/, so that a selection that silently loses some is noticed.
EXPECTED_TESTS = {"2.9.2": 24}


def fetch_tests(release: str) -> Path:
    """Download the release's source distribution once, and take the tests out of it.

    :param release: version of sb3-contrib
    :return: folder with tests/ and pyproject.toml, but without the package: the installed one is what is tested
    """
    folder = CACHE / f"sb3_contrib-{release}"
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*pip, "--no-binary", ":all:", "--dest", scratch, f"sb3-contrib=={release}"], check=True)
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            root = tar.getnames()[0].split("/")[0]
            wanted = [m for m in tar.getmembers() if m.name.startswith((f"{root}/tests/", f"{root}/pyproject.toml"))]
            tar.extractall(scratch, members=wanted, filter="data")
        # At once, so that an interrupted run leaves no half of it behind.
        os.replace(Path(scratch) / root, folder)
    return folder


class OurTRPO:
    """A pytest plugin that puts our class in the place of sb3-contrib's, and checks that it is what the tests used."""

    def __init__(self) -> None:
        self.constructed = 0
        self.selected = 0
        self.passed = 0

    def pytest_configure(self) -> None:
        """Substitute before any test module is imported."""
        original = sb3_trpo_ext.TRPO.__init__

        @functools.wraps(original)
        def counting(model: Any, *args: Any, **kwargs: Any) -> None:
            self.constructed += 1
            original(model, *args, **kwargs)

        sb3_trpo_ext.TRPO.__init__ = counting
        sb3_contrib.TRPO = sb3_contrib.trpo.TRPO = sb3_trpo_ext.TRPO

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep the tests that concern TRPO.

        :param config: pytest's
        :param items: the collected tests, changed in place
        """
        ours = [item for item in items if self._concerns_trpo(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in ours])
        items[:] = ours
        self.selected = len(ours)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        """A test that never constructed our class proves nothing.

        :param item: the test
        """
        before = self.constructed
        yield
        assert self.constructed > before, f"{item.nodeid} has not constructed sb3_trpo_ext.TRPO"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count what passed (a skipped test has not).

        :param report: of one phase of a test
        """
        self.passed += report.when == "call" and report.passed

    @staticmethod
    def _concerns_trpo(item: pytest.Item) -> bool:
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        return "trpo" in item.name.lower() or any(value is sb3_trpo_ext.TRPO for value in parameters)


def main() -> int:
    """Fetch, run, judge.

    :return: exit status
    """
    release = version("sb3-contrib")
    folder = fetch_tests(release)
    plugin = OurTRPO()
    with tempfile.TemporaryDirectory() as elsewhere:
        os.chdir(elsewhere)  # some tests write to the working directory
        options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov"]
        status = pytest.main([*options, f"--rootdir={folder}", "-c", f"{folder}/pyproject.toml", f"{folder}/tests"], [plugin])
        os.chdir(CACHE)  # out of the folder that goes now
    expected = EXPECTED_TESTS.get(release, plugin.selected)
    print(
        f"sb3-contrib {release}: {plugin.passed} of its TRPO tests passed on sb3_trpo_ext.TRPO"
        f" ({plugin.selected} selected, {expected} expected, {plugin.constructed} models constructed)"
    )
    complete = plugin.passed == plugin.selected == expected > 0
    return int(status) or int(not complete)


if __name__ == "__main__":
    sys.exit(main())
