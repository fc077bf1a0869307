"""A training engine for any nn.Module: it knows neither attention nor a dataset."""
