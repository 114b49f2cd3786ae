# The commands make their own virtual environment in .venv, once.
#   make demo   two networks that know five digits each become one that knows all ten: three minutes on two idle cores
#   make test   the linter and the tests: exactly what CI runs
#   make quick  the linter and the tests that are not slow, while you work
#   make docs   the documentation as a site: open site/index.html
#   make pages  the pages of it that are written from the code

.DEFAULT_GOAL := help
.PHONY: help demo test on-jax on-tensorflow quick docs pages clean

VENV := .venv
RUN := $(VENV)/bin/python
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
    $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

export TF_CPP_MIN_LOG_LEVEL ?= 3

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/ready-demo
	$(RUN) -m benchmarks.demo

# Two processes, among which tests/scheduling.py shares the tests. Those marked both_backends run a second time beside them, on JAX
# and in a process that cannot import TensorFlow: of these a line is printed if they pass, and all if they do not.
PYTEST := $(RUN) -m pytest -n 2

test: $(VENV)/ready-test
	$(RUN) -m ruff check .
	@$(MAKE) --no-print-directory -j 2 on-jax on-tensorflow

on-jax: $(VENV)/ready-test
	@log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
	KERAS_BACKEND=jax KMERGE_TESTS_HIDE=tensorflow $(RUN) -m pytest -m both_backends >"$$log" 2>&1 || { cat "$$log"; exit 1; }; \
	printf '\non JAX: '; tail -n 1 "$$log"

on-tensorflow: $(VENV)/ready-test
	KERAS_BACKEND=tensorflow $(PYTEST)

quick: $(VENV)/ready-test
	$(RUN) -m ruff check .
	KERAS_BACKEND=tensorflow $(PYTEST) -m "not slow"

# mkdocs.yml makes it strict: a warning ends it.
docs: $(VENV)/ready-docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build

pages: $(VENV)/ready-test
	$(RUN) -m benchmarks.studies.rules --out docs/concepts
	$(RUN) -m benchmarks.studies.contents --out docs/benchmark
	$(RUN) -m benchmarks.studies.floor_plan --out docs/development
	$(RUN) -m benchmarks.studies.notebooks --out examples

# One environment for all commands, a stamp for each. Stamps go before an installation starts and come back when it is
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

# What makes the site comes on top, and leaves the other stamps as they are.
$(VENV)/ready-docs: $(VENV)/ready-demo
	$(RUN) -m pip install --quiet --prefer-binary --no-compile --editable '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) kmerge.egg-info build site .pytest_cache .ruff_cache .hypothesis
