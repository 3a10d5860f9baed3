"""Rows as terminal tables, JSON and CSV."""
