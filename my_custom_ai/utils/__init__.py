"""Seeds, meters, whole files, trackers."""
