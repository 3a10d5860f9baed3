# Every target sets up what it needs: a machine needs Python 3.11+ with pip, and make.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
PYTEST := $(RUN)/python -m pytest
# These tests start Ray clusters: one at a time.
SWEEPS := tests/sweeps
NODES := tests/cluster/test_two_nodes.py
# Parts of the unit tests, for one process each; `rest` has what no other part names. pytest-xdist
# would take 5 ms per test for messages, and import all tests in every worker.
PARTS := contracts steps detectors cli servers rest
part-contracts := tests/contracts
part-steps := tests/detectors
part-detectors := $(addprefix tests/detectors/,assigners data evaluation models)
part-cli := tests/gaplab/cli tests/gaplab/spec
part-servers := tests/gaplab/mirror tests/gaplab/trial
part-rest := tests
UNIT := $(addprefix unit-,$(PARTS))
# Unit tests that start Ray, MLflow or PostgreSQL: `make test-fast` leaves them out.
SERVERS := tests/cluster tests/contracts tests/gaplab/mirror tests/gaplab/launch/ray
export OMP_NUM_THREADS := 1
# The tests start hundreds of processes; without bytecode files each compiles every module again.
unexport PYTHONDONTWRITEBYTECODE
comma := ,
export NO_MKDOCS_2_WARNING := 1

.PHONY: help demo test test-fast lint types unit $(UNIT) sweeps docs fuzz chaos bench bench-gpu clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1@/p' $(MAKEFILE_LIST) | awk -F@ '{printf "%-10s %s\n", $$1, $$2}'

demo: $(VENV)/.ready  ## run the five-assignment sweep, print its leaderboard, write its report
	$(RUN)/gaplab run experiments/quickstart.yaml
	$(RUN)/gaplab report quickstart

parts := --no-print-directory --keep-going --output-sync=target

# Sweeps wait for processes to start, so three parts at a time keep two cores busy.
test: lint  ## everything that CI runs, three parts at a time; a part is printed when it has ended
	$(MAKE) $(parts) --jobs=3 sweeps $(UNIT) types docs

test-fast: $(VENV)/.ready-dev  ## unit tests that start no server, in two and a half minutes
	$(PYTEST) -n 2 --dist loadfile -m "not slow" $(addprefix --ignore ,$(SWEEPS) $(SERVERS))

lint: $(VENV)/.ready-dev  ## check style and formatting (ruff)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

types: $(VENV)/.ready-dev  ## check types (mypy, strict)
	$(RUN)/mypy

unit: $(VENV)/.ready-dev  ## every test that starts no sweep, two parts at a time
	$(MAKE) $(parts) --jobs=2 $(UNIT)

below = $(filter $(addsuffix /%,$(part-$*)),$(SWEEPS) $(NODES) $(foreach each,$(PARTS),$(part-$(each))))
$(UNIT): unit-%: $(VENV)/.ready-dev
	$(PYTEST) $(part-$*) $(addprefix --ignore ,$(below))

sweeps: $(VENV)/.ready-dev  ## tests that run sweeps on Ray
	$(PYTEST) $(SWEEPS)

docs: $(VENV)/.ready-dev  ## build the documentation into build/docs; a warning is an error
	$(RUN)/mkdocs build --strict --quiet

fuzz: $(VENV)/.ready-dev  ## property tests with new random examples
	GAPLAB_FUZZ=1 $(PYTEST) -n 2 --dist loadfile -m hypothesis $(addprefix --ignore ,$(SWEEPS) $(NODES))

chaos: $(VENV)/.ready-dev  ## many faults in running sweeps; takes over an hour
	CHAOS=full $(PYTEST) $(SWEEPS) $(NODES)

bench: $(VENV)/.ready-dev  ## measure speed, as ratios within one run
	$(PYTEST) -s tests/benchmarks

bench-gpu: $(VENV)/.ready  ## measure training steps and loading on a GPU
	$(RUN)/gaplab bench --output bench.json

clean:  ## delete the virtual environment and what was built
	rm -rf $(VENV) build dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The pip that comes with Python 3.11 takes twice as long as the one of constraints.txt, and gaplab is
# built by the installed hatchling instead of another copy of the newest one. pip compiles
# modules one at a time and takes longer for it than for the rest; compileall uses all cores. It skips
# tests of packages and large parts that nothing here imports, and fails for files that aren't meant
# for this Python.
UNUSED := tests?|testing|_inductor|rllib|databricks|fontTools|onnxruntime|mypyc?|setuptools
PIP = $(RUN)/python -m pip install --quiet --no-compile -c constraints.txt
install = $(PIP) pip hatchling && $(PIP) --no-build-isolation -e '$(1)' && \
	{ $(RUN)/python -m compileall -qq -j 0 -x '/($(UNUSED))/' $(VENV)/lib || true; }

$(VENV)/.ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(call install,.)
	touch $@

# Also what .ready stands for, in one go.
$(VENV)/.ready-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(call install,.[dev$(comma)docs])
	touch $(VENV)/.ready $@
