"""Results: tables, comparisons and diagnoses computed from the ledger and from stored files.

Nothing here prints. `reevaluate` adds evaluations to the ledger; all other modules only read it.
"""
