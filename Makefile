# Each target makes the virtual environment it needs; only Python 3.11 or newer (with venv) must be there before.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# Comparisons with the public models need torch, on CPU only. Where the registry's build carries CUDA and is too large:
#   make test TORCH='torch==2.13.0 --index-url ADDRESS', the address of PyTorch's CPU builds
TORCH ?= torch==2.13.0

.PHONY: help test demo sample train-tiny figures clean
.DELETE_ON_ERROR:

help:  ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

test: $(VENV)/.dev  ## Lint, check types and run the suite
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

demo: $(VENV)/.package  ## Talk to the tiny agent in the browser
	$(BIN)/python serve.py --open

sample: $(VENV)/.package  ## Stream the sample clip through the tiny agent into out/
	mkdir -p out
	$(BIN)/python serve.py --input wanstreamer_jax/assets/sample.mp4 --output out/reply.mp4 \
		--report out/report.json --record-text out/reply.vtt
	@echo "The reply: out/reply.mp4. Its subtitles: out/reply.vtt. What it took: out/report.json."

train-tiny: $(VENV)/.train  ## Train the tiny agent from nothing, in runs/tiny: hours; goes on where it was stopped
	$(BIN)/python train.py configs/tiny.py --stage all --workdir runs/tiny

figures: $(VENV)/.dev  ## Draw the pictures in docs/
	$(BIN)/python docs/figures.py

clean:  ## Remove the environment and what was made
	rm -rf $(VENV) out build

$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer with venv found: install it, or say make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.package: pyproject.toml $(VENV)/.python
	$(BIN)/pip install --quiet --editable '.[serve]'
	touch $@

$(VENV)/.train: pyproject.toml $(VENV)/.python
	$(BIN)/pip install --quiet --editable '.[train]'
	touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.python
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.package $(VENV)/.train
