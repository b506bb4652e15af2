"""The command line of training: `bcaf-train`."""

from training.cli.main import app, main

__all__ = ["app", "main"]
