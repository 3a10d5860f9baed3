"""The only importer of Ray."""
