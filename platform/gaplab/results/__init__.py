"""Results: tables, comparisons and diagnoses computed from the ledger and from stored files.

Nothing here prints. `candidates.reevaluate` and `measurement` add results to the ledger; all other
modules only read it.
"""
