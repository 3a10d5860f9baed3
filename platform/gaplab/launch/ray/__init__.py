"""The only modules that import Ray."""
