"""Prediction with a trained model, and its export."""
