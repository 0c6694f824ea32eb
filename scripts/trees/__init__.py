"""What ``compare_trees.py`` is made of: the same short trainings in two checkouts, each in processes of its own."""
