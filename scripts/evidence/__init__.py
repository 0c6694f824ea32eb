"""
The evidence runner: train, compare and report, one way for everything that makes a claim.

``runs`` says what a run is, ``configurations`` which settings it has, ``runner`` schedules, ``worker`` and ``training`` do
the work in a process of their own, ``store`` keeps results; ``command_line`` is what scripts have of this, ``variants`` what
the ablation compares; ``scores``, ``metrics``, ``figures`` and ``tables`` report.
"""

import os

# Nothing here is tracked; without a key the plug-in would say that it logs offline.
os.environ.setdefault("WANDB_MODE", "offline")
