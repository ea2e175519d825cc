"""Prediction with a trained model, and its export."""
from src.inference.predictor import Predictor

__all__ = ["Predictor"]
