"""One folder per experiment: its settings, data, objective, training, and what one does with the model."""
