# Everything a contributor or a first user runs. Each target sets up what it needs.
#
#   make demo      the cheapest way to serve a real 70B model, with its launch files, from nothing
#   make test      the tests           make check     style, types, layers
#   make bench     speed               make validate  against measured data
#   make fuzz      damaged data through every reader
#   make regold    golden answers and what the pages show written again, with a table of what changed
#   make docs      the web pages       make clean     remove what these made

# The first Python of 3.11 or newer that really starts.
SYSTEM_PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
VENV := .venv
PYTHON := $(VENV)/bin/python
WORKERS ?= 2

# Measured tables, when they lie beside the checkout; tests that need them skip without.
ifneq ($(wildcard ../shared),)
export STEELYARD_DATA ?= $(abspath ../shared)
endif

# One thread per process: the work is many small array operations.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: demo test check regold bench fuzz validate docs clean

demo: $(VENV)/.demo
	@mkdir -p build
	@echo "planning (the first run compiles the simulator, some twenty seconds)"
	$(VENV)/bin/steelyard plan meta-llama/Llama-3.1-70B-Instruct --on h100_sxm,h200_sxm,mi300x,l40s --rate 10/s --isl 4000 --osl 500 --ttft p99:1s --tpot p95:50ms --formats any --out build/demo --force
	@echo "open build/demo/report.html"

test: $(VENV)/.dev
	$(PYTHON) -m pytest -n $(WORKERS) $(ARGS)

check: $(VENV)/.dev
	$(PYTHON) -m ruff check src validation tests bench docs .ci
	$(PYTHON) -m ruff format --check src validation tests bench docs .ci
	$(PYTHON) -m mypy
	$(VENV)/bin/lint-imports

regold: $(VENV)/.dev
	$(PYTHON) -m tests.golden.golden $(ARGS)
	$(PYTHON) -m tests.docs.blocks $(ARGS)

bench: $(VENV)/.dev
	$(PYTHON) -m bench $(ARGS)

fuzz: $(VENV)/.dev
	$(PYTHON) -m tests.fuzz $(ARGS)

validate: $(VENV)/.dev
	$(VENV)/bin/steelyard validate --out docs/validation --readme README.md $(ARGS)

docs: $(VENV)/.docs
	$(PYTHON) docs/reference/generate.py
	PYTHONPATH=docs/_make $(PYTHON) -m zensical build --strict --clean
	$(PYTHON) docs/_make/check.py site

clean:
	rm -rf $(VENV) site dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@[ -n "$(SYSTEM_PYTHON)" ] || { echo "Python 3.11 or newer is needed; name it with SYSTEM_PYTHON="; exit 1; }
	@$(SYSTEM_PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "cannot make a virtual environment (on Debian: apt install python3-venv)"; exit 1; }
	-$(PYTHON) -m pip install --quiet --disable-pip-version-check uv

# install,EXTRAS,MORE: with uv when it could be installed, with pip otherwise; byte-compiled, so that the first start is quick.
define install
	@if [ -x $(VENV)/bin/uv ]; then \
	  echo "installing steelyard$(1) with uv"; \
	  UV_COMPILE_BYTECODE=1 $(VENV)/bin/uv pip install --quiet --python $(PYTHON) -e '.$(1)' $(2); \
	else \
	  echo "installing steelyard$(1) with pip"; \
	  $(PYTHON) -m pip install --quiet --disable-pip-version-check -e '.$(1)' $(2); \
	fi
	@env -u PYTHONDONTWRITEBYTECODE $(PYTHON) -m compileall -q src
	@touch $@
endef

# a variable: a comma in a call would begin its next argument
DEMO_EXTRAS := [fast,page]

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(call install,$(DEMO_EXTRAS))

$(VENV)/.dev: pyproject.toml validation/pyproject.toml .ci/dependencies.txt | $(VENV)/bin/python
	$(call install,[dev],-e ./validation -c .ci/dependencies.txt)
	-@$(PYTHON) hatch_build.py axe

$(VENV)/.docs: pyproject.toml | $(VENV)/bin/python
	$(call install,[docs],-e ./validation)
