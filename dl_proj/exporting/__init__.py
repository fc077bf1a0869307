"""Export of models as graphs that run without this project: torch.export and ONNX."""
