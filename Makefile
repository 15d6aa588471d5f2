# `make` lists the targets. They use .venv, which `make setup` builds; to use an environment of your own,
# name its Python: `make demo PY=python`.

PYTHON ?= python3
PY ?= .venv/bin/python

DEMO_CONFIG := configs/shapes/mask_rcnn_tiny_FPN.yaml
DEMO := output/demo
SOURCES := train_net.py $(wildcard tools/make_report.py configs/shapes/*.yaml) \
	$(shell find mask_rcnn_ext -name '*.py' -o -path '*/templates/*' -type f)

COMPARE := output/compare
LINEAGE := output/lineage

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo compare lineage test lint check tables docs doctor clean clean-demo

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

demo: $(DEMO)/report.html  ## train Mask R-CNN on drawn shapes, evaluate it, write output/demo/report.html
	@$(if $(DEMO_RAN),,echo "$(DEMO) is up to date; \`make clean-demo demo\` runs it again")
	@$(PY) -c 'import json; print("mask AP", round(json.load(open("$(DEMO)/results.json"))["segm"]["AP"], 1))'
	@echo "report  $(DEMO)/report.html"

$(DEMO)/results.json: $(SOURCES) | setup
	$(eval DEMO_RAN := yes)
	@rm -rf $(DEMO)  # curves of an earlier run would go on in this one's
	$(PY) train_net.py --config-file $(DEMO_CONFIG) OUTPUT_DIR $(DEMO)

$(DEMO)/report.html: $(DEMO)/results.json | setup
	$(eval DEMO_RAN := yes)
	$(PY) tools/make_report.py $(DEMO)

compare: $(COMPARE)/comparison.html  ## train Mask R-CNN and FCIS, three seeds each, and compare them where objects overlap
	@$(if $(COMPARE_RAN),,echo "$(COMPARE) is up to date; trainings whose config has not changed are kept")
	@$(if $(COMPARE_RAN),$(PY) projects/reproduction/make_tables.py)
	@echo "report  $(COMPARE)/comparison.html"

$(COMPARE)/comparison.html: $(SOURCES) projects/reproduction/run_comparison.py tools/compare.py | setup
	$(eval COMPARE_RAN := yes)
	$(PY) projects/reproduction/run_comparison.py --output $(COMPARE)

lineage: $(LINEAGE)/lineage.html  ## train R-CNN, Fast, Faster and Mask R-CNN, small, and set them side by side
	@$(if $(LINEAGE_RAN),,echo "$(LINEAGE) is up to date; trainings whose config and proposals have not changed are kept")
	@$(if $(LINEAGE_RAN),$(PY) projects/reproduction/make_tables.py)
	@echo "report  $(LINEAGE)/lineage.html"

$(LINEAGE)/lineage.html: $(SOURCES) $(wildcard configs/shapes/lineage/*.yaml) projects/reproduction/run_lineage.py \
		tools/compute_proposals.py tools/train_rcnn_svm.py | setup
	$(eval LINEAGE_RAN := yes)
	$(PY) projects/reproduction/run_lineage.py --output $(LINEAGE)

test: setup  ## run the tests on two processes, offline
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2

lint: setup  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

check: lint test  ## lint and test

tables: setup  ## write the generated parts of README.md, configs/ and docs/
	$(PY) projects/reproduction/make_tables.py

docs: setup  ## build the site from docs/ into output/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(PY) -W ignore -m mkdocs build  # with -q, strict would miss warnings
	@echo "site    output/site/index.html"

doctor: setup  ## say what is installed, what is wrong and how to fix it
	$(PY) tools/environment/doctor.py

clean-demo:  ## remove the demo's output
	rm -rf $(DEMO)

clean: clean-demo  ## remove .venv, caches and builds too; data sets stay
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
