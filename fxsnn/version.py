"""The version of fxsnn."""

__version__ = "0.1.0"
