# make demo   sets up .venv, trains two small models, shows the shipped ones: a comparison, drawings, text, translations
# make gpu    sets up .venv, tests, measures and trains on a GPU, see docs/gpu.md; ARGS="--minutes 9" limits the time
# make test   sets up .venv, lints, checks types, runs all tests
# make test-fast   the same without the slow tests: those that start processes, compile or train for seconds
# make test-torture   kills trainings, fills disks, flips bits, mutates configurations: minutes, see docs/reliability.md
# make docs   builds the documentation site, without a warning, into build/site; make notebooks executes its tutorials
# make lock   locks the versions anew when requirements have changed; ARGS=--upgrade takes the newest of all
# make setup, setup-dev   only .venv, with the locked versions; LOCK=no takes the newest within the requirements instead
VENV ?= .venv
PYTHON ?= python3
LOCK ?= yes
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check

.PHONY: setup setup-dev lock demo gpu test test-fast test-torture lint format docs notebooks

# The locked versions, whose files must have the locked hashes; where they cannot be had, the newest within the ranges.
ifeq ($(LOCK),no)
install = $(PIP) -r $(1).txt
else
install = $(PIP) -r $(1).lock 2> $(VENV)/$(1).log || { \
	echo "$(1).lock cannot be installed here ($(VENV)/$(1).log says why): taking what $(1).txt allows"; $(PIP) -r $(1).txt; }
endif

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt requirements.lock | $(VENV)/bin/python
	@$(call install,requirements)
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements.txt requirements-dev.lock | $(VENV)/bin/python
	@$(call install,requirements-dev)
	touch $@ $(VENV)/.installed

# For every platform and Python that the project runs on; the first constrains the second, so that they agree.
lock: | $(VENV)/bin/python
	$(PIP) uv
	$(COMPILE) requirements-dev.txt --output-file requirements-dev.lock $(ARGS)
	$(COMPILE) requirements.txt --output-file requirements.lock --constraints requirements-dev.lock $(ARGS)
COMPILE = $(RUN) -m uv --quiet pip compile --default-index https://pypi.org/simple --universal --python-version 3.11 \
	--generate-hashes --no-annotate --custom-compile-command "make lock"

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

docs: setup-dev
	$(RUN) -m website

notebooks: setup-dev
	$(RUN) -m website.notebooks docs/tutorials/*.py
