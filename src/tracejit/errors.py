"""The exceptions that are tracejit's own; where PyTorch raises a built-in one, so does tracejit."""

from __future__ import annotations


class TracejitError(Exception):
    """The root of tracejit's own exceptions."""


class KernelBuildError(TracejitError):
    """A kernel's text could not be turned into native code: a fault in tracejit, never in the user's program."""


class ConfigError(TracejitError):
    """A TRACEJIT_* environment variable holds something that it cannot hold."""
