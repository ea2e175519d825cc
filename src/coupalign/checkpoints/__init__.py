"""Checkpoints: loading, training states, and weights of other frameworks.

Nothing is imported here: ``convert`` needs packages that the environment of MindSpore 2.0, which exports models, lacks.
"""
