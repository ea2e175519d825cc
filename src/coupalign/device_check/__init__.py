"""Checks of a device before a long training: ``coupalign check-device``."""
