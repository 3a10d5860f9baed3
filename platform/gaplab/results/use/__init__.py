"""Trained detectors: their weights, and what they detect in pictures."""
