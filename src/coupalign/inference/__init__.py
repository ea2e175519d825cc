"""Prediction with a trained model, and its export."""

from coupalign.inference.predictor import Predictor

__all__ = ["Predictor"]
