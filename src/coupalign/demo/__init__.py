"""The page on which a model is tried. Gradio is imported by ``page`` and ``serve`` alone."""
