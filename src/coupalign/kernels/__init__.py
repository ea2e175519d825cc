"""Kernels for the CPU in C++, in place of MindSpore's where those are slow: they use no vector instructions."""

from coupalign.kernels.use import use_kernels, use_kernels_in_update

__all__ = ["use_kernels", "use_kernels_in_update"]
