"""A web page to try a model on. Only ``page`` and ``serve`` import Gradio."""
