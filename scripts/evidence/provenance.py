"""Where a number comes from: code, versions, machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
# A result depends on these; results/ and docs/ change while evidence is gathered.
CODE = ("sb3_trpo_ext", "scripts", "zoo_configs")
PACKAGES = {
    "torch": "torch",
    "sb3": "stable-baselines3",
    "sb3_contrib": "sb3-contrib",
    "rl_zoo3": "rl-zoo3",
    "gymnasium": "gymnasium",
    "mujoco": "mujoco",
    "numpy": "numpy",
}


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", "-C", str(REPO), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def provenance() -> dict[str, Any]:
    """
    Describe this process.

    :return: columns of a result; a package that is not installed, and a commit that is not known, is None
    """
    versions: dict[str, str | None] = {}
    for column, package in PACKAGES.items():
        try:
            versions[column] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[column] = None
    changed = _git("status", "--porcelain", "--", *CODE)
    return {
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "dirty": None if changed is None else bool(changed),
        "python": platform.python_version(),
        **versions,
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "finished": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
