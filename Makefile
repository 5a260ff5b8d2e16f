# `make` or `make help` lists the targets. Everything is installed into .venv and nowhere else.
PYTHON ?= python3
# Another build of torch (CUDA, ROCm, ...): make setup TORCH="torch --index-url ..."
TORCH ?= torch==2.13.0
BIN := .venv/bin
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: .venv/ready ## make .venv and install the pinned versions into it

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, found {sys.version.split()[0]}; say which with PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	@echo "installing the pinned versions: about 3 minutes and 2 GB, more with a CUDA build of torch"
	$(BIN)/python -m pip install -qq --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup ## the main job on the embedded default: a 135M model, two merges, two weights
	$(BIN)/python -m pipeline -m merge=slerp,ties weight=0.3,0.5

control: setup ## the demo's grid beside its control, a donor in a random direction
	$(BIN)/python -m pipeline -m +experiment=control

test: setup ## style, import floors and all tests
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

bench-merge: setup .mergekit/ready ## merges of 0.5 B-parameter models, ours and mergekit 0.1.5's, into bench/README.md (half an hour)
	$(BIN)/python bench/merge.py --mergekit .mergekit/bin/python

bench-eval: setup ## answering benchmarks with a 135M model, ours and lm-eval's own backend, into bench/README.md (half an hour)
	$(BIN)/python bench/evaluate.py

bench-coverage: setup ## do the intervals hold the truth, does Holm keep false alarms rare? into bench/README.md (half an hour)
	$(BIN)/python bench/interval_coverage.py

bench-debias: setup ## one PCGU step against two plain passes and a loop over rows, into bench/README.md (ten minutes)
	$(BIN)/python bench/debias.py

.mergekit/ready:
	$(PYTHON) -m venv .mergekit
	.mergekit/bin/python -m pip install -qq --disable-pip-version-check $(TORCH)
	.mergekit/bin/python -m pip install -qq --disable-pip-version-check mergekit==0.1.5
	@touch $@

ui: setup ## open the MLflow store of runs/ at http://127.0.0.1:5000
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true $(BIN)/mlflow server --workers 1 --port 5000 --backend-store-uri sqlite:///$(CURDIR)/runs/mlflow.db

lock: setup ## write the versions that are installed now into constraints.txt
	( echo '# The lock: every package but torch, whose build depends on the machine. `make lock` writes it.'; \
	  $(BIN)/python -m pip freeze --exclude-editable --exclude torch --exclude merging-and-bias | grep -viE '^(nvidia|cuda|triton)' ) > constraints.new && mv constraints.new constraints.txt

clean: ## remove .venv; results in runs/ stay
	rm -rf .venv .mergekit

.PHONY: help setup demo control test bench-merge bench-eval bench-coverage bench-debias ui lock clean
