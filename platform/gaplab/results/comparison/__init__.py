"""Trials side by side: the leaderboard, groups of trials, and the effects of their settings."""
