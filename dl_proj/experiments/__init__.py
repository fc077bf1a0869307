"""One folder per experiment: its settings, data, objective, training, and the use of its models."""
