"""Rows and groups as terminal tables, JSON and CSV. Nothing is computed here but roundings."""
