# Everything sets itself up: a machine needs Python 3.11+ with pip, and make.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
# Starts Ray clusters, which want the machine for themselves.
SWEEPS := tests/sweeps
NODES := tests/cluster/test_two_nodes.py
export OMP_NUM_THREADS := 1

.PHONY: demo test chaos bench clean

demo: $(VENV)/.ready  ## run the five-assignment sweep and print its leaderboard
	$(RUN)/gaplab run experiments/quickstart.yaml

test: $(VENV)/.ready-dev  ## lint, types, tests: what CI runs
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/python -m pytest -n 2 --ignore $(SWEEPS) --ignore $(NODES)
	$(RUN)/python -m pytest $(SWEEPS)

chaos: $(VENV)/.ready-dev  ## faults put into running sweeps, many of each; over an hour
	CHAOS=full $(RUN)/python -m pytest $(SWEEPS) $(NODES)

bench: $(VENV)/.ready-dev  ## speed, as ratios within one run
	$(RUN)/python -m pytest -s tests/benchmarks

clean:
	rm -rf $(VENV) build dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(RUN)/pip install --quiet torch -c constraints.txt
	$(RUN)/pip install --quiet -e . -c constraints.txt
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(RUN)/pip install --quiet -e '.[dev]' -c constraints.txt
	touch $@
