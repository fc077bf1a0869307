"""Multi-query associative recall (Arora et al. 2024): a model looks up the values of keys seen earlier."""
