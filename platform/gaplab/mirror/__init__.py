"""The copy of the ledger in MLflow, for MLflow's web pages."""
