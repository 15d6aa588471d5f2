# `make` lists the targets. They use .venv, which `make setup` builds; to use an environment of your own,
# name its Python: `make demo PY=python`.

PYTHON ?= python3
PY ?= .venv/bin/python

DEMO := output/demo
COMPARE := output/compare
NESTED := output/nested
LINEAGE := output/lineage

.DEFAULT_GOAL := help
.PHONY: help setup demo compare lineage scaling test test-oldest fuzz torture lint audit check gpu tables docs doctor clean clean-demo

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup:  ## build .venv: torch, detectron2, this package (once; about two minutes)
ifeq ($(PY),.venv/bin/python)
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: no '$(PYTHON)' found; Python 3.10 or later is needed: make setup PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: expected Python 3.10 or later, '$(PYTHON)' is `$(PYTHON) --version 2>&1`; name another: make setup PYTHON=python3.11"; exit 1; }
	@$(PYTHON) tools/environment/setup_env.py
endif

# The scripts decide what is out of date: a training by its config, data and code, a page by its runs and templates.
demo: setup  ## train Mask R-CNN on drawn shapes, evaluate it, write output/demo/report.html
	@$(PY) tools/run_demo.py --output $(DEMO)

compare: setup  ## train Mask R-CNN and FCIS, 16 trainings, and compare them where objects overlap (hours)
	$(PY) projects/reproduction/run_comparison.py --output $(COMPARE)
	$(PY) projects/reproduction/run_fcis_experiment.py --output $(NESTED)
	@$(PY) projects/reproduction/make_tables.py
	@echo "report  $(COMPARE)/comparison.html"
	@echo "report  $(NESTED)/fcis_experiment.html"

lineage: setup  ## train R-CNN, Fast, Faster and Mask R-CNN, small, and set them side by side
	$(PY) projects/reproduction/run_lineage.py --output $(LINEAGE)
	@$(PY) projects/reproduction/make_tables.py
	@echo "report  $(LINEAGE)/lineage.html"

scaling: setup  ## train on two simulated nodes, and predict on 20,000 images while processes are killed
	$(PY) projects/reproduction/run_scaling.py
	@$(PY) projects/reproduction/make_tables.py

test: setup  ## run the tests on two processes, offline
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal

test-oldest:  ## run the tests with the oldest PyTorch that is supported, in .venv-oldest
	@$(PYTHON) tools/environment/setup_env.py .venv-oldest --constraints constraints-oldest.txt
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n 2 --dist worksteal

fuzz: setup  ## read 20,000 changed files of each of six kinds, write results/fuzz.json (up to an hour)
	OMP_NUM_THREADS=1 $(PY) tests/fuzz/run_fuzz.py --output results/fuzz.json

torture: setup  ## kill small trainings 1,000 times, fill disks, restart processes, watch memory (about an hour)
	$(PY) tests/torture/run.py $(TORTURE)

lint: setup  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

audit: setup  ## compare the pinned versions with the public lists of known faults
	@$(PY) tools/environment/audit.py constraints.txt

check: lint audit test  ## lint, audit and test

gpu: setup  ## on a machine with a GPU: its tests, the benchmark and a training; a second call does the rest
	$(PY) projects/reproduction/run_gpu.py $(GPU)

tables: setup  ## write the generated parts of README.md, configs/ and docs/
	$(PY) projects/reproduction/make_tables.py

docs: setup  ## build the site from docs/ into output/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(PY) -W ignore -m mkdocs build  # with -q, strict would miss warnings
	@echo "site    output/site/index.html"

doctor: setup  ## say what is installed, what is wrong and how to fix it
	$(PY) tools/environment/doctor.py

clean-demo:  ## remove the demo's output
	@$(PYTHON) tools/clean_demo.py $(DEMO)

clean: clean-demo  ## also remove the environments of `make setup`, caches and builds; data sets stay
	for venv in .venv .venv-oldest; do if test -f $$venv/made-by-setup; then rm -rf $$venv; fi; done
	rm -rf build/lib/mask_rcnn_ext build/lib/mask_rcnn_ext_tools build/bdist.* mask_rcnn_ext.egg-info .mypy_cache .pytest_cache .ruff_cache
	rm -f dist/mask_rcnn_ext-*.whl dist/mask_rcnn_ext-*.tar.gz
	rmdir build/lib build dist 2>/dev/null || true
	find mask_rcnn_ext tools projects tests -path '*/__pycache__/*.pyc' -type f -delete
	find mask_rcnn_ext tools projects tests -name __pycache__ -type d -empty -delete
