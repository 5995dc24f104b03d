# `make demo` and `make test` need only Python 3.11 or newer: they make .venv when it is absent or out of date.
# For GNU make 3.81 (macOS) and later. Every path is relative, so the folder's own path may hold spaces.

TORCH := 2.13.0
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/complete
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# CUDA=1 asks for CUDA; an environment made so stays so until CUDA=0 or `make clean`.
CUDA ?= $(shell sed -n 's/^cuda=\([01]\) .*/\1/p' $(STAMP) 2>/dev/null)
override CUDA := $(if $(filter 1,$(CUDA)),1,0)
export ISOGRAM_CUDA := $(CUDA)

ifeq ($(CUDA),1)
install_torch = echo "PyTorch $(TORCH) with CUDA (some GB) ..." && $(PIP) install torch==$(TORCH)
else ifeq ($(shell uname -s),Linux)
install_torch = echo "PyTorch $(TORCH) for the CPU (about 200 MB) ..." && \
	{ $(PIP) install --no-deps torch==$(TORCH)+cpu 2>/dev/null || \
	  $(PIP) install --no-deps torch==$(TORCH) --index-url $(TORCH_CPU_INDEX); }
else
install_torch = echo "PyTorch $(TORCH) (about 100 MB) ..." && $(PIP) install torch==$(TORCH)
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env demo test test-deploy check clean remake

help:
	@echo "make demo     make the environment, run the main job"
	@echo "make test     make the environment, run the tests"
	@echo "make test-deploy  the same for servers and sites as processes that are killed"
	@echo "make check    make the environment, run lint, format and type checks"
	@echo "make env      make the environment only, in $(VENV)"
	@echo "make clean    remove the environment and all caches of tools"
	@echo
	@echo "With CUDA=1: PyTorch for CUDA instead of CPU. With PYTHON=...: that Python, if it is 3.11 or newer."

env: $(STAMP)

demo: $(STAMP)
	@$(BIN)/isogram demo

test: $(STAMP)
	@echo "Running the tests in two processes (ten to twenty minutes) ..."
	@OMP_NUM_THREADS=1 $(BIN)/pytest --quiet -n 2

test-deploy: $(STAMP)
	@echo "Running federations on this machine and killing their processes (twenty minutes) ..."
	@OMP_NUM_THREADS=1 $(BIN)/pytest --quiet -m deploy tests/deploy

check: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "Checking types (half a minute the first time) ..."
	@$(BIN)/mypy

clean:
	rm -rf $(VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist

# The stamp is written last and removed first, so a set-up that was interrupted starts from nothing the next time.
# It names folder and flavour: a virtual environment does not survive a move, nor pip a change from CPU to CUDA.
ifneq ($(shell cat $(STAMP) 2>/dev/null),cuda=$(CUDA) $(CURDIR))
$(STAMP): remake
endif

$(STAMP): pyproject.toml constraints.txt Makefile
	@if [ "$$(cat $(STAMP) 2>/dev/null)" != "cuda=$(CUDA) $$(pwd -P)" ]; then \
	  for python in "$(PYTHON)" python3.13 python3.12 python3.11 python3 ""; do \
	    "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "No Python 3.11 or newer with venv found. Install one (on Debian and Ubuntu: python3 and" >&2; \
	    echo "python3-venv), or name it: make PYTHON=/path/to/python3" >&2; \
	    exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$("$$python" --version), once, in one to five minutes."; \
	  "$$python" -m venv --clear $(VENV); \
	fi
	@rm -f $(STAMP)
	@$(install_torch) || \
	  { echo "PyTorch could not be installed. Check the network, then run the same command again." >&2; exit 1; }
	@echo "All other packages ..."
	@$(PIP) install -c constraints.txt -e ".[dev]"
	@echo "cuda=$(CUDA) $$(pwd -P)" > $(STAMP)
