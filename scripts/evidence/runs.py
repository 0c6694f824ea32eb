"""What a run is, and what makes two runs the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

OURS, PLAIN_CG = "ours", "ours-plain-cg"
"""The second: ours, but CG keeps no residual and so re-orthogonalises nothing, for ablations."""
IMPLEMENTATIONS = (OURS, "contrib-zoo", "contrib-ours", "ppo-zoo", PLAIN_CG)
REFERENCE = "contrib-zoo"
RANDOM = "random"

# Fixed, so that every curve has the same grid and every mean the same weight.
CURVE_POINTS = 20
CURVE_EPISODES = 10
FINAL_EPISODES = 20
RANDOM_EPISODES = 100

# What the learned policy can't depend on.
_NOT_SETTINGS = frozenset({"n_timesteps", "warn_on_risky", "log_folder", "verbose"})
# By their names alone, without arguments (on_trouble="stop"), monitors don't change a bit of what is learned.
_OBSERVERS = "sb3_trpo_ext.monitoring."


def config_hash(entry: dict[str, Any]) -> str:
    """
    Name a configuration by its content.

    :param entry: hyperparameters as in a Zoo YAML; the order does not count, nor do keys that can't change what is learned
    :return: 10 hexadecimal digits
    """
    settings = {key: value for key, value in entry.items() if key not in _NOT_SETTINGS}
    if str(settings.get("callback", "")).startswith(_OBSERVERS):
        del settings["callback"]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Run:
    """
    One training (or, for ``random``, one evaluation of the random policy).

    :param task: environment id
    :param seed: random seed
    :param implementation: one of ``IMPLEMENTATIONS``, or ``random``
    :param steps: environment steps
    :param entry: hyperparameters, complete, as in a Zoo YAML
    :param source: where they come from
    :param overrides: what was changed in them, as ``key=value`` separated by blanks
    :param numerics_version: ``NUMERICS_VERSION`` for ours, None for others
    """

    task: str
    seed: int
    implementation: str
    steps: int
    entry: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    overrides: str = ""
    numerics_version: int | None = None

    @property
    def config_hash(self) -> str:
        """Hash of its settings."""
        return config_hash(self.entry)

    @property
    def id(self) -> str:
        """Two runs with the same id are the same run: a finished one is never repeated."""
        key = (self.task, self.seed, self.implementation, self.config_hash, self.numerics_version, self.steps)
        return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]

    @property
    def title(self) -> str:
        """Name for people."""
        steps = "" if self.implementation == RANDOM else f" seed {self.seed}, {self.steps:,} steps"
        return f"{self.task} {self.implementation}{steps}" + (f" [{self.overrides}]" if self.overrides else "")

    def identity(self) -> dict[str, Any]:
        """Columns that say what this run is."""
        return {
            "run": self.id,
            "task": self.task,
            "seed": self.seed,
            "implementation": self.implementation,
            "overrides": self.overrides,
            "config_hash": self.config_hash,
            "config_source": self.source,
            "numerics_version": self.numerics_version,
            "steps": self.steps,
        }

    def to_json(self) -> str:
        """Write it down for the worker."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Run:
        """
        Read what ``to_json`` has written.

        :param text: JSON
        :return: an equal run
        """
        return cls(**json.loads(text))


def curve_steps(steps: int) -> list[int]:
    """
    Give the steps at which a run is evaluated on the way.

    :param steps: length of the run
    :return: 0 (the untrained policy) to ``steps``, ascending
    """
    return sorted({round(steps * point / CURVE_POINTS) for point in range(CURVE_POINTS + 1)})
