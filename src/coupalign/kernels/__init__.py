"""Optional C++ kernels for the CPU, switched on by the key ``cpu_kernels``.

MindSpore's own GELU, layer normalisation and their gradients use no vector instructions on the CPU; these kernels do.
Inference is about twice as fast with them. ``use_kernels`` replaces Cells of a finished model, so the code of the model
does not depend on this package.
"""

from coupalign.kernels.use import use_kernels, use_kernels_in_update

__all__ = ["use_kernels", "use_kernels_in_update"]
