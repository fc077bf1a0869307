# make demo   sets up .venv, trains two small models, shows the shipped ones: a comparison, drawings, text, translations
# make gpu    sets up .venv, tests, measures and trains on a GPU, see docs/gpu.md; ARGS="--minutes 9" limits the time
# make test   sets up .venv, lints, checks types, runs all tests
# make test-fast   the same without the slow tests: those that start processes, compile or train for seconds
# make test-torture   kills trainings, fills disks, flips bits, mutates configurations: minutes, see docs/reliability.md
VENV ?= .venv
PYTHON ?= python3
RUN := $(VENV)/bin/python

.PHONY: setup setup-dev demo gpu test test-fast test-torture lint format

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@ $(VENV)/.installed

demo: setup
	$(RUN) synth_train.py --config dl_proj/configs/demo.yaml
	$(RUN) synth_models_comparison.py --n_test 256 --output_dir runs/demo
	$(RUN) cls_train.py --config dl_proj/configs/cls_digits.yaml
	$(RUN) mnist_generator.py --output_dir runs/demo
	$(RUN) lm_generate.py --length 300
	$(RUN) translate.py "A man is playing a guitar." "Two dogs run through the snow."

gpu: setup-dev
	$(RUN) -m benchmarks.gpu $(ARGS)

lint: setup-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: setup-dev
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

test: lint
	$(RUN) -m pytest --numprocesses auto --dist worksteal

test-fast: lint
	$(RUN) -m pytest --numprocesses auto --dist worksteal -m "not slow"

test-torture: setup-dev
	$(RUN) -m pytest --numprocesses auto --dist worksteal -m torture tests/torture
