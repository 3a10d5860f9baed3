"""The copy of the ledger in MLflow."""
