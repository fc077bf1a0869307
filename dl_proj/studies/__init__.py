"""What is measured without training: costs, random features, reconstruction, and their pictures."""
