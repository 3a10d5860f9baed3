"""Search beyond the grid: drawn and proposed trials, and trials that are stopped early."""
