# `make demo` and `make test` do all the set-up on a machine with Python 3.10+ and nothing else.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= ladle-demo
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

BUILD := pyproject.toml constraints.txt hatch_build.py src/ladle/native/kernel.c

.PHONY: demo demo-vision test test-quick lint types bench bench-evaluate bench-recipes bench-sweep bench-ray clean-bench clean

demo: $(VENV)/demo.done            ## sweep, soup and report on embedded text data
	$(BIN)/ladle demo --output $(DEMO)

demo-vision: $(VENV)/all.done      ## the same on images, with BatchNorm
	$(BIN)/ladle demo --task demo-vision --output $(DEMO)-vision

test: lint types                   ## everything that CI checks but the demos
	$(BIN)/python -m pytest -n 2

test-quick: $(VENV)/all.done       ## the tests that are not slow: minutes
	$(BIN)/python -m pytest -n 2 -m "not slow"

bench: $(VENV)/all.done            ## averaging beside other tools: half an hour, 30 GB of disk
	$(BIN)/python benchmarks/merge.py --ladle $(VENV)

bench-evaluate: $(VENV)/all.done   ## evaluation with and without what makes it faster: minutes
	$(BIN)/python benchmarks/evaluate.py

bench-recipes: $(VENV)/all.done    ## all recipes on a sweep of 12 models: half an hour
	$(BIN)/python benchmarks/recipes.py

bench-sweep: $(VENV)/all.done      ## training beside a bare loop and transformers' Trainer: minutes
	$(BIN)/python benchmarks/sweep.py

bench-ray: $(VENV)/all.done        ## two workers of a Ray cluster beside one: minutes
	$(BIN)/python benchmarks/cluster.py
	$(BIN)/python benchmarks/speculation.py benchmarks/work/greedy/soup.json --times benchmarks/work/times.json

clean-bench:
	rm -rf benchmarks/work

lint: $(VENV)/all.done
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/all.done
	$(BIN)/mypy

$(VENV)/demo.done: $(BUILD) | $(BIN)/python
	$(INSTALL) --editable '.[demo]'
	@touch $@

$(VENV)/all.done: $(BUILD) | $(BIN)/python
	$(INSTALL) --editable '.[all,dev]'
	@touch $@ $(VENV)/demo.done

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) $(DEMO) $(DEMO)-vision
