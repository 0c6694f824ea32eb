"""From a rollout buffer and a policy to the problem that ``core.update`` solves."""
