# The commands make their own virtual environment in .venv, once.
#   make demo   the main job on real data that comes with scikit-learn (handwritten digits), a few minutes on two cores
#   make test   the linter and the tests: exactly what CI runs
#   make quick  the linter and the tests that are not slow, while you work

.DEFAULT_GOAL := help
.PHONY: help demo test quick clean

VENV := .venv
RUN := $(VENV)/bin/python
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
    $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

export TF_CPP_MIN_LOG_LEVEL ?= 3

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/ready
	$(RUN) -m benchmarks.run --suite digits

# Two processes, among which tests/scheduling.py shares the tests. Those marked both_backends run a second time, on JAX and in
# a process that cannot import TensorFlow. The complete run comes last: its closing line is the last line printed.
PYTEST := $(RUN) -m pytest -n 2

test: $(VENV)/ready
	$(RUN) -m ruff check .
	KERAS_BACKEND=jax KMERGE_TESTS_HIDE=tensorflow $(PYTEST) -m both_backends
	KERAS_BACKEND=tensorflow $(PYTEST)

quick: $(VENV)/ready
	$(RUN) -m ruff check .
	KERAS_BACKEND=tensorflow $(PYTEST) -m "not slow"

# The stamp is written last, so an installation that was cut off is made anew.
$(VENV)/ready: setup.cfg
	@test -n "$(PYTHON)" || { echo "kmerge needs Python 3.11 or newer. Name one: make demo PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON). This happens once and takes a minute or more."
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --editable '.[benchmarks,jax,test]'
	@touch $@

clean:
	rm -rf $(VENV) kmerge.egg-info build .pytest_cache .ruff_cache .hypothesis
