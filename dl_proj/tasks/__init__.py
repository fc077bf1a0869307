"""What is particular to an experiment: its loss, its metrics, its pictures."""
