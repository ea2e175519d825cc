"""An HTTP service for masks. Only ``app`` and ``guard`` know HTTP."""
