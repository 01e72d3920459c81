# make demo         set up from a fresh clone and look at the tour
# make test         set up and run every test
# make bench-smoke  run every benchmark to its end on tiny sizes
# make test-latest  the same package with the newest of everything that pyproject.toml allows
# make test-bounds  what leans on transformers' inside, with its newest and its oldest release
# make test-remote  requests to a model that runs elsewhere, with nnsight in an environment apart
# make lock         renew requirements.lock, what make demo and make test install
# make check        lint, formats and types
# make docs         the documentation, its cells run, in build/docs
#
# PYTHON=python3.12   the interpreter that makes the environment (3.11 or newer)
# VENV=.venv          where the environment is; one that holds a torch already keeps it
# TORCH=torch==2.13.0 what pip installs where the environment holds none
# LOCK=               install what pyproject.toml allows, whatever was tested
# HEADLESS=1          make demo writes files instead of opening a browser

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
LOCK ?= requirements.lock

comma := ,
bin := $(VENV)/bin
py := $(bin)/python
stamps := $(VENV)/.stamps
js_sources := $(shell find js/src js/lab -type f 2>/dev/null) js/build.mjs
jupyter_files := $(wildcard jupyter-config/*/*.json) js/lab/install.json
display := $(if $(HEADLESS),,$(DISPLAY)$(WAYLAND_DISPLAY)$(if $(filter Darwin,$(shell uname)),quartz))

# One thread in each of two processes: small models gain nothing from more, and two cores are full.
export OMP_NUM_THREADS ?= 1
# Workers, kernels and servers are many processes: none compiles again what another has compiled.
unexport PYTHONDONTWRITEBYTECODE
# matplotlib's list of fonts, too, is this environment's: another's may name fonts that are gone.
export MPLCONFIGDIR := $(abspath $(VENV))/.matplotlib
pytest := $(py) -m pytest -q --durations=10
spread := -n 2 --dist worksteal
# What takes one process runs beside the browser's tests; each prints when it is over.
pairwise := -j2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

# transformers with its bounds, as pyproject.toml states them, and the tests of what leans on it
allowed := $(shell sed -n 's/^ *"\(transformers>=[^"]*\)".*/\1/p' pyproject.toml)
oldest := $(subst >=,==,$(firstword $(subst $(comma), ,$(allowed))))
inside := $(addprefix tests/unit/run/test_, edit_generation.py edits.py hooks.py record.py) \
	$(addprefix tests/unit/model/test_, conventions.py families.py)

.PHONY: demo tour files test unit js-test kernel-test notebook-test browser-test packaging-test \
	docs-test docs bench-smoke test-latest test-bounds test-remote lock check format build setup system \
	clean
.DELETE_ON_ERROR:

demo: setup
	@$(MAKE) --no-print-directory $(if $(display),tour,files)

tour:
	$(bin)/jupyter lab notebooks/00_tour.ipynb

files:
	@mkdir -p demo
	$(bin)/jupyter nbconvert --to notebook --execute notebooks/00_tour.ipynb --output-dir demo
	$(py) -m layerlens.demo demo

test: setup
	@$(MAKE) --no-print-directory unit notebook-test
	@$(MAKE) --no-print-directory $(pairwise) browser-test js-test kernel-test packaging-test docs-test \
		bench-smoke

unit:
	$(pytest) $(spread) tests/unit $(wildcard tests/reference)

js-test: $(stamps)/node
	cd js && npm test

kernel-test:
	$(pytest) tests/kernel

# The cells of a notebook stay together, in one process. Chapters of the course are run once, by
# tests/notebooks/test_course.py, which answers them as well.
notebook-test:
	$(pytest) -n 2 --dist loadfile --nbval-lax --nbval-cell-timeout 600 \
		--ignore=notebooks/course notebooks tests/notebooks

# Every benchmark runs to its end on tiny sizes; the times mean nothing.
bench-smoke:
	$(py) benchmarks/lens.py --smoke
	$(py) benchmarks/patching.py --smoke
	$(py) benchmarks/metrics.py --smoke
	$(py) benchmarks/learning.py --smoke
	$(py) benchmarks/features.py --smoke
	$(py) benchmarks/attribution.py --smoke
	$(py) benchmarks/faithful.py --smoke
	$(py) benchmarks/scale.py --smoke
	$(py) benchmarks/views.py --quick

packaging-test:
	$(pytest) tests/packaging

docs-test:
	$(pytest) tests/docs

browser-test:
	$(pytest) tests/browser

# From the ranges alone, in an environment of its own that is made anew; torch as everywhere.
test-latest:
	rm -rf .venv-latest
	@$(MAKE) --no-print-directory VENV=.venv-latest LOCK= setup unit kernel-test

test-bounds: $(stamps)/python
	.ci/with '$(allowed)' $(py) $(VENV)-newest -m pytest -q $(spread) $(inside)
	.ci/with '$(oldest)' $(py) $(VENV)-oldest -m pytest -q $(spread) $(inside)

test-remote: $(stamps)/python
	.ci/with 'nnsight>=0.8.1' $(py) $(VENV)-remote -m pytest -q tests/unit/run/test_remote.py

lock: $(stamps)/python
	$(bin)/uv pip compile -q --upgrade pyproject.toml -o requirements.lock
	$(py) -m layerlens.model.tested --write

# What a cell gave is kept until its code changes, so that only the first time takes long.
docs: setup
	$(py) -m sphinx -W --keep-going -j 2 -b html docs build/docs

check: $(stamps)/python $(stamps)/node
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	cd js && npm run check && npm run typecheck

format: $(stamps)/python $(stamps)/node
	$(bin)/ruff check --fix .
	$(bin)/ruff format .
	cd js && npm run format

build: $(stamps)/python
	$(bin)/python -m build

setup: $(stamps)/python $(stamps)/system $(stamps)/model

system: $(stamps)/system

$(stamps)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "layerlens needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(py) || $(PYTHON) -m venv $(VENV)
	@mkdir -p $(stamps) && touch $@

# torch first and by itself: its builds differ by machine, and one that is there is left alone.
$(stamps)/torch: $(stamps)/venv
	$(py) -c 'import torch' 2>/dev/null || $(py) -m pip install -q $(TORCH)
	@touch $@

$(stamps)/node: js/package.json js/package-lock.json | $(stamps)/venv
	@command -v npm >/dev/null || { echo "Building the front end needs Node 20 or newer, with npm."; exit 1; }
	cd js && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

layerlens/static/host.js: $(js_sources) $(stamps)/node
	cd js && npm run --silent build
	@touch $@

# The lock names all that is needed; whatever torch is there satisfies it.
$(stamps)/locked: $(LOCK) $(stamps)/torch
	$(if $(LOCK),$(py) -m pip install -q --no-deps -r $(LOCK))
	@touch $@

# An editable install copies the lab extension and the server's configuration, hence the files here.
$(stamps)/python: pyproject.toml $(jupyter_files) layerlens/static/host.js $(stamps)/locked
	HATCH_JUPYTER_BUILDER_SKIP_NPM=1 $(py) -m pip install -q $(if $(LOCK),--no-deps) -e '.[test,dev,docs]'
	@touch $@

$(stamps)/system: | $(stamps)/venv
	@.ci/system-packages
	@touch $@

$(stamps)/model: $(stamps)/python
	$(py) -m layerlens.model.default
	@touch $@

clean:
	rm -rf dist demo layerlens/static layerlens/labextension js/node_modules $(stamps)
