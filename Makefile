PYTHON ?= python3
VENV ?= .venv
DEMO_VENV ?= .venv-demo
RCLIP_VENV ?= .venv-rclip
PHOTOS ?=
DATA ?=
BIN = $(VENV)/bin
PYTEST = $(BIN)/python -m pytest -q -p no:cacheprovider
# one more than there are cores: many tests wait
PROCESSES = $(shell $(PYTHON) -c 'import os; print(min(8, os.cpu_count() + 1))')
SPREAD = -p tests.support.side_by_side --side-by-side $(PROCESSES) -o console_output_style=classic
PIP_FLAGS = --quiet --disable-pip-version-check -c constraints.txt

# the tests start hundreds of processes: without compiled modules each compiles clipsearch anew, which takes 0.1 s
export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: help demo test test-all fast-tests cluster-test browser-test lint check wheel-test bench clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(DEMO_VENV)/.ready ## Index real photographs and search them (PHOTOS=~/Pictures for your own)
	$(DEMO_VENV)/bin/python scripts/demo.py $(if $(PHOTOS),--photos "$(PHOTOS)")

test: $(VENV)/.ready ## Run tests of every kind that need no GPU, network, browser or machine of their own
	$(PYTEST) $(SPREAD) --durations 20 -m "not gpu and not network and not browser and not cluster and not packaging"

test-all: export CLIPSEARCH_BREADTH = all
test-all: test ## The same with every variant of each kind, as CI does

browser-test: $(VENV)/.ready ## Test the page in Chromium; screenshots go to build/screenshots
	CLIPSEARCH_SCREENSHOTS=build/screenshots $(PYTEST) --durations 20 -m browser tests/browser

cluster-test: $(VENV)/.ready ## Test search in shards behind Ray Serve, with nothing beside it
	$(PYTEST) --durations 5 -m cluster tests/contract/test_shards.py

lint: $(VENV)/.ready ## Lint, check the format and the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: $(VENV)/.ready ## Lint, check types, run the fast tests but those of faults (before each commit)
	$(MAKE) --jobs 2 lint fast-tests

fast-tests: $(VENV)/.ready
	$(PYTEST) $(SPREAD) --ignore tests/faults -m "not slow and not torch and not gpu and not network and not browser and not cluster and not packaging"

wheel-test: $(VENV)/.ready ## Build the wheel and test it in a new environment outside the repository
	$(PYTEST) -s -m packaging tests/packaging

bench: $(VENV)/.ready $(RCLIP_VENV)/.ready ## Measure speed against rclip, exact search and the encoder alone (takes long)
	$(BIN)/pip install $(PIP_FLAGS) -e '.[bench]'
	$(BIN)/python scripts/demo.py > /dev/null
	$(BIN)/python -m benchmarks.exact_or_ivf --json benchmarks/results/exact_or_ivf.json
	$(if $(DATA),$(BIN)/python -m benchmarks.against_ann --data "$(DATA)",@echo "no DATA=FOLDER of WebDataset tars: left out hnswlib and usearch")
	$(if $(DATA),$(BIN)/python -m benchmarks.warm_process --data "$(DATA)")
	$(BIN)/python -m benchmarks.page_speed --folder benchmarks/results/page --out benchmarks/results/page_speed.json
	$(BIN)/python -m benchmarks.words --json benchmarks/results/words.json
	$(BIN)/python -m benchmarks.encoder_ceiling --model clipsearch/models/builtin --folder demo/photos
	$(BIN)/python -m benchmarks.against_rclip --rclip $(RCLIP_VENV)/bin/rclip

clean: ## Delete environments, caches and build products
	rm -rf $(VENV) $(DEMO_VENV) $(RCLIP_VENV) build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP_FLAGS) -e '.[torch,openvino,heif,ocr,raw,ui,dev]'
	touch $@

$(DEMO_VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEMO_VENV)
	$(DEMO_VENV)/bin/pip install $(PIP_FLAGS) -e '.[ui]'
	touch $@

$(RCLIP_VENV)/.ready:
	$(PYTHON) -m venv $(RCLIP_VENV)
	$(RCLIP_VENV)/bin/pip install --quiet --disable-pip-version-check rclip==3.3.0
	touch $@
