"""
Tuning: ``scripts/tune.py`` in its parts.

``points`` says where a search starts; ``study`` keeps trials in Optuna's journal, ``pruner`` ends the hopeless ones;
``objective`` does one trial, seed after seed, each in a process of its own (``worker``, ``training``); ``search`` goes round
the tasks; ``table`` exports and shows; ``choose`` trains the best again at full length and ``yaml_entry`` writes the winner.
"""

import os

# Nothing here is tracked; without a key the plug-in would say that it logs offline.
os.environ.setdefault("WANDB_MODE", "offline")
