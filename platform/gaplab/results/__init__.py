"""Questions to the ledger and to files. No terminal."""
