"""A training engine for any nn.Module: it knows neither attention nor a dataset."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("dl-proj")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"
