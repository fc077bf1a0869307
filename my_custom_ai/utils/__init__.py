"""Seeds, meters, atomic file writes, trackers, signals, measurements."""
