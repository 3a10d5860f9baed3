"""Check a machine, its packages and its settings before a sweep runs into trouble.

One module per subject. Each gathers facts with an `inspect_*` function that changes nothing, and
judges them with a pure `check_*` function that returns findings.
"""
