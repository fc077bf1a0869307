"""Pictures of what a trained model attends to."""
