"""Image classification, and the robustness of classifiers to shifts."""
