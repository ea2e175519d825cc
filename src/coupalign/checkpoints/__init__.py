"""Checkpoints: loading, training states, and weights of other frameworks.

Nothing is imported here: MindSpore 2.0, which exports models, cannot import ``convert`` and ``trained``.
"""
