# SPDX-License-Identifier: Apache-2.0
# "make" lists the targets. PYTHON=... chooses the interpreter for a new .venv.
# DETECTRON2=... installs another Detectron2 than the 0.5 from PyPI: anything pip accepts.

VENV := .venv
BIN := $(VENV)/bin/python
CANDIDATES := $(or $(PYTHON),python3.11 python3.12 python3.10 python3.13 python3)
USABLE := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 14))
# What else decides which Detectron2 is found or installed is part of the stamp's name.
STAMP := $(VENV)/setup-$(shell printf '%s' '$(DETECTRON2) $(PYTHONPATH)' | cksum | cut -d ' ' -f 1).stamp

# Systems and pre-trainings beside the package, each a package of its own.
PROJECTS := $(wildcard projects/*/pyproject.toml)
# Optional packages that must not meet the others' pins: a second environment on top of the first.
EXTRA := .venv-extra
# Programs that formats are made for, whose pins do not allow ours: a third one, without DALNet.
READERS := .venv-readers
SITE := 'from sysconfig import get_path; print(get_path("purelib"))'

# "make gpu" runs where nothing can be installed: by this interpreter as it is, without .venv.
GPU_PYTHON ?= python3
MINUTES ?= 8
OUTPUT ?= output/gpu.json
# Builds wheels for the Python of such machines.
PYTHON312 ?= python3.12

.PHONY: help setup demo test test-slow faults soak test-extra lint bench gpu gpu-wheels clean distclean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1 - /p' Makefile

setup: $(STAMP) ## create .venv with everything needed (the first time about 5 GB)

demo: setup ## train and evaluate a small model on made-up images
	$(BIN) -m dalnet demo

test: setup ## run the tests, but for slow ones and those of optional packages
	$(BIN) -m pytest -q -n auto --maxprocesses 4 --dist worksteal -m 'not slow and not extra'

test-slow: setup ## run the slow tests
	$(BIN) -m pytest -q -m 'slow and not extra'

faults: setup ## inject faults into trainings and files, and list by kind what was survived
	$(BIN) -m pytest -q -m faults

soak: MINUTES := 30
soak: setup ## kill a training at random for MINUTES (30), and compare it with one that is left alone
	SOAK_MINUTES=$(MINUTES) $(BIN) -m pytest -q -m faults tests/faults/test_killed.py -k soak

test-extra: setup ## run the tests of optional packages, in .venv-extra and .venv-readers
	test -x $(EXTRA)/bin/python || $(BIN) -m venv $(EXTRA)
	printf 'import site; site.addsitedir("%s")\n' "$$($(BIN) -c $(SITE))" \
		> "$$($(EXTRA)/bin/python -c $(SITE))/base.pth"
	$(EXTRA)/bin/python -m pip install -q 'setuptools<81' 'clip-anytorch==2.6.0' \
		'onnx==1.23.2' 'onnxruntime==1.32.0' 'onnxscript==0.7.2' 'segmentation-models-pytorch==0.6.0' \
		'ray[data]==2.60.0' 'pyarrow==26.0.1' 'aiohttp==3.14.5'
	$(EXTRA)/bin/python -m pip install -q --no-deps 'ultralytics==8.4.190'
	test -x $(READERS)/bin/python || $(BIN) -m venv $(READERS)
	$(READERS)/bin/python -m pip install -q 'datumaro==1.13.12' 'label-studio-sdk==2.1.2'
	$(EXTRA)/bin/python -m pytest -q -m extra

lint: setup ## check style, formatting and types
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check .
	$(BIN) -m mypy

bench: setup ## compare the numerical kernels with the published algorithms (takes a while)
	$(BIN) -m benchmarks

gpu: ## measure everything on a GPU in MINUTES; without one, see that it would run
	$(GPU_PYTHON) -m benchmarks.gpu --minutes $(MINUTES) --output $(OUTPUT)

gpu-wheels: setup ## bring what a GPU machine lacks into gpu_wheels/ (docs/performance.md)
	$(BIN) -m benchmarks.gpu wheels gpu_wheels --python312 $(PYTHON312)

clean: ## remove caches and build files; .venv and output/ stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove .venv, .venv-extra and .venv-readers too
	rm -rf $(VENV) $(EXTRA) $(READERS)

$(BIN):
	@for python in $(CANDIDATES); do \
		if "$$python" -c '$(USABLE)' 2>/dev/null; then \
			echo "Creating $(VENV) with $$python ($$("$$python" --version))"; \
			"$$python" -m venv $(VENV) && exit 0; \
			rm -rf $(VENV); exit 1; \
		fi; \
	done; \
	echo "error: none of '$(CANDIDATES)' is a Python 3.10 to 3.13 with venv:" \
		"install one (Debian: also python3-venv) or name one, as in make setup PYTHON=python3.11"; \
	exit 1

$(STAMP): pyproject.toml $(PROJECTS) constraints.txt dalnet/cli/install_detectron2.py | $(BIN)
	rm -f $(VENV)/setup-*.stamp
	$(BIN) -m pip install -c constraints.txt setuptools wheel
	$(BIN) -m pip install -c constraints.txt -e '.[dev]' $(PROJECTS:%/pyproject.toml=-e %)
	$(BIN) -m dalnet install-detectron2 --requirement '$(DETECTRON2)'
	touch $@
