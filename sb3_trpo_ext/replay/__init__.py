"""An update that the flight recorder has dumped, computed again."""

from sb3_trpo_ext.records.dump import DumpError
from sb3_trpo_ext.replay.recompute import Replayed, differences, recompute

__all__ = ["DumpError", "Replayed", "differences", "recompute"]
