"""Results beside what papers publish: tables of rows, and claims with verdicts."""
