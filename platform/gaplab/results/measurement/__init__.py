"""Measurements of detections that any tool wrote."""
