"""Metrics of stored candidates: AP and AR with and without NMS, their gap, and its diagnosis."""
