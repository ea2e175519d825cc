"""What a user can do wrong, told apart from what the code does wrong."""

from __future__ import annotations


class UserError(Exception):
    """A user's mistake. ``str(error)`` is one line: what is wrong, where, and the mend.

    The programs at the root print it as ``error: …`` and exit with 2 (``coupalign.cli.command``).
    """
