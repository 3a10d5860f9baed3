"""From a YAML file to validated trials with ids. No ledger, no training."""
