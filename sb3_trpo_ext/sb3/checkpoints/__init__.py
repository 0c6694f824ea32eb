"""What is saved of a model and of a training, and how both are restored."""
