"""sb3-contrib's own tests of TRPO, on ours."""

import os
import subprocess
import sys
from pathlib import Path


def test_contribs_own_trpo_tests_pass_on_our_class(repo: Path) -> None:
    # A process of its own, since it replaces sb3_contrib.TRPO; and no settings from this pytest run.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_CORE"))}
    environment["PYTHONPATH"] = str(repo)  # installed or not
    run = subprocess.run(
        [sys.executable, str(repo / "scripts" / "run_contrib_tests.py")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
