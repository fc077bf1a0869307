"""Studies without training: costs, random features, reconstruction, and their pictures."""
