"""What a model may be asked for: rules, spaces, and the wording of refusals."""
