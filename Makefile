# Both commands make their own virtual environment in .venv, once.
#   make demo   the main job on real data that comes with scikit-learn (handwritten digits), a few minutes on two cores
#   make test   the linter and the tests: exactly what CI runs

.DEFAULT_GOAL := help
.PHONY: help demo test clean

VENV := .venv
RUN := $(VENV)/bin/python
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
    $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# Tests that run a second time, on JAX and in a process that cannot import TensorFlow: those of the gates, of `fit`, of the
# README's code, and of the tests over the zoo of models those of two models.
ON_JAX := tests/test_gates.py tests/test_gate_application.py tests/test_training.py tests/test_fit_many.py tests/test_readme.py \
    tests/test_surgery.py tests/test_merging.py \
    -k "test_gates.py or test_gate_application.py or test_training.py or test_fit_many.py or test_readme.py or [lenet or [mlp"

export TF_CPP_MIN_LOG_LEVEL ?= 3

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/ready
	$(RUN) -m benchmarks.run --suite digits

# The complete run comes last: its closing line is the last line printed.
test: $(VENV)/ready
	$(RUN) -m ruff check .
	KERAS_BACKEND=jax KMERGE_TESTS_HIDE=tensorflow $(RUN) -m pytest $(ON_JAX)
	KERAS_BACKEND=tensorflow $(RUN) -m pytest

# The stamp is written last, so an installation that was cut off is made anew.
$(VENV)/ready: setup.cfg
	@test -n "$(PYTHON)" || { echo "kmerge needs Python 3.11 or newer. Name one: make demo PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON). This happens once and takes a minute or more."
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --editable '.[benchmarks,jax,test]'
	@touch $@

clean:
	rm -rf $(VENV) kmerge.egg-info build .pytest_cache .ruff_cache .hypothesis
