# Both commands make their own virtual environment in .venv, once.
#   make demo   the main job on real data that comes with scikit-learn (handwritten digits), a few minutes on two cores
#   make test   the linter and the tests: exactly what CI runs

.DEFAULT_GOAL := help
.PHONY: help demo test clean

VENV := .venv
RUN := $(VENV)/bin/python
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
    $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# Tests that run a second time, on JAX and in a process that cannot import TensorFlow: those of the gates, of `fit`, of runs
# that train together, of the README's code, of gradients, of proximal steps, and of the tests over the zoo of models those of two models.
ON_JAX := tests/test_gates.py tests/test_gate_application.py tests/test_training.py tests/test_fit_many.py \
    tests/test_regularizers.py tests/test_sizing_backends.py tests/test_together.py tests/test_readme.py tests/test_surgery.py tests/test_merging.py tests/test_importance.py \
    tests/test_pruning.py tests/test_normalised.py tests/test_opaque.py tests/test_sizing_options.py -k "test_gates.py or test_gate_application.py or test_training.py or test_fit_many.py or \
    test_together.py or test_readme.py or test_regularizers.py or test_sizing_backends.py or proximal_step or taylor or [lenet or [mlp or [plain or [lstm"

export TF_CPP_MIN_LOG_LEVEL ?= 3

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/ready-demo
	$(RUN) -m benchmarks.run --suite digits

# Two processes, each with whole files, whose tests share networks. The complete run comes last: its closing line is the last
# line printed.
PYTEST := $(RUN) -m pytest -n 2 --dist loadfile

test: $(VENV)/ready-test
	$(RUN) -m ruff check .
	KERAS_BACKEND=jax KMERGE_TESTS_HIDE=tensorflow $(PYTEST) $(ON_JAX)
	KERAS_BACKEND=tensorflow $(PYTEST)

# One environment for both commands, a stamp for each. Stamps go before an installation starts and come back when it is
# complete, so one that was cut off is made anew, and `make test` after `make demo` adds what is missing. Most modules of
# what is installed are never imported: Python compiles the others when it first imports them, and has to keep that.
export PYTHONDONTWRITEBYTECODE :=
$(VENV)/ready-demo $(VENV)/ready-test: $(VENV)/ready-%: setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { echo "kmerge needs Python 3.11 or newer. Name one: make demo PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up $(VENV) for \`make $*\`. This happens once and takes a minute or more."
	@ls $(VENV)/ready-* >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@rm -f $(VENV)/ready-*
	$(RUN) -m pip install --quiet --prefer-binary --no-compile --editable '.[$*]'
	@touch $(VENV)/ready-demo $@

clean:
	rm -rf $(VENV) kmerge.egg-info build .pytest_cache .ruff_cache .hypothesis
