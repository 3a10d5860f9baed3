"""Ways to run trials. Only files in this folder import ray."""
