"""Run one trial in one process group. No Ray, no SQL."""
