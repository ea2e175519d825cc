"""Exceptions for mistakes of the user, as opposed to faults of the code."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the user. ``str(error)`` is one line: what is wrong, where, and what to do.

    The commands print it as ``error: …`` and exit with 2 (``coupalign.cli.command``).
    """


class ConfigError(UserError):
    """A configuration that cannot be used. The message names the key."""
