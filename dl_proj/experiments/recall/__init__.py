"""Multi-query associative recall (Arora et al. 2024): a model looks up what it has been told."""
