"""Questions to the candidates that trials stored: other protocols, and where a gap comes from."""
