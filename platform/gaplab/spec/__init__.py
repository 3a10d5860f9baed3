"""From a YAML file to validated trials with ids. Never uses the ledger, never trains.

Open `models.py` first: `Experiment` describes one trial and `Spec` the sweep around it. The way of
a spec: `files.load_spec` reads the file, `resolve.resolve` validates every trial, and
`sweep.expand` gives the trials their ids. The other modules serve these three:

- `yaml_text`, `merge`, `overrides`: parse YAML, merge files and profiles, apply `--set`.
- `axes`, `search`, `sampling`, `grid`, `sections`: what is varied, and the trials that follow.
- `fields`, `protocols`, `validate`, `problems`: what is allowed, and messages about what is not.
"""
