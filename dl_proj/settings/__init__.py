"""Read a YAML file and flags into validated settings; independent of the experiments."""
