# Every target sets up .venv by itself; an existing one is used. `make JAX=[cuda12] demo` overrides the choice of JAX.

PYTHON3 ?= python3
TORCH ?= torch==2.13.0
PYTHON := .venv/bin/python
PIP := $(PYTHON) -m pip install --quiet

# The extra for this machine's GPU: CUDA 13 needs driver 580 or newer, CUDA 12 needs 525; otherwise the CPU.
JAX = $(shell driver=$$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | grep -oE -m1 '^[0-9]+'); \
	if [ "$${driver:-0}" -ge 580 ]; then echo '[cuda13]'; elif [ "$${driver:-0}" -ge 525 ]; then echo '[cuda12]'; fi)

.PHONY: install demo test test-fast test-long test-examples test-full test-browser fuzz gpu-check lint clean

install: .venv/run.stamp

demo: .venv/run.stamp
	$(PYTHON) -m jaxsd.toy demo

# A file's tests stay together, for they share what is compiled.
test: .venv/test.stamp
	@echo "under five minutes on two CPU cores, six where nothing is compiled yet; make test-fast leaves out what takes long"
	$(PYTHON) -m pytest -q -n auto --maxprocesses 4 --dist loadfile

# What a change is tried with while it is made: no trained models, no other processes, nothing that compiles for long.
test-fast: .venv/test.stamp
	$(PYTHON) -m pytest -q -n auto --maxprocesses 4 --dist loadfile -m 'not full_size and not examples and not long and not slow'

# Trainings from end to end, kills and resumes, several processes, all bundled encoders.
test-long: .venv/test.stamp
	$(PYTHON) -m pytest -q -n auto --maxprocesses 4 --dist loadfile -m long

# The README's Python and images, the way from one's own files to an image, and the commands of every mode.
test-examples: .venv/test.stamp
	$(PYTHON) -m pytest -q -m examples

test-full: .venv/test.stamp
	$(PYTHON) -m pytest -q -m full_size

# The page in a headless Chromium, in an environment of its own; axe-core checks that everybody can use it. Without
# Chromium (apt-get install chromium) or npm, a line says what is skipped.
test-browser: .venv-app/stamp
	npm install --no-save --silent axe-core || true
	.venv-app/bin/python -m pytest -q -rs -m browser tests/serving

fuzz: .venv/test.stamp
	$(PYTHON) -m tests.fuzz --minutes 2

# Compiles every program for a GPU that is not here; needs no GPU, but 6 GB for an environment of its own.
gpu-check: .venv-gpu/stamp
	JAX_PLATFORMS=cpu .venv-gpu/bin/python -m benchmarks.compiled

lint: .venv/lint.stamp
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m pyright

# Leaves .venv and what runs wrote.
clean:
	rm -rf build *.egg-info .pytest_cache .ruff_cache
	find . -path './.venv*' -prune -o -name __pycache__ -prune -exec rm -rf {} +

.venv/run.stamp: pyproject.toml
	test -x $(PYTHON) || $(PYTHON3) -m venv .venv
	$(PIP) -e '.$(JAX)'
	touch $@

.venv/lint.stamp: .venv/run.stamp
	$(PIP) -e '.[lint]'
	touch $@

.venv-gpu/stamp: pyproject.toml
	test -x .venv-gpu/bin/python || $(PYTHON3) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --quiet -e '.[cuda12]'
	touch $@

.venv-app/stamp: pyproject.toml
	test -x .venv-app/bin/python || $(PYTHON3) -m venv .venv-app
	.venv-app/bin/python -m pip install --quiet -e '.[app,browser,test]'
	touch $@

# torch comes first: here the build at hand is taken, where the range in `parity` would take the newest.
.venv/test.stamp: .venv/run.stamp
	$(PIP) '$(TORCH)'
	$(PIP) -e '.[test,parity]'
	touch $@
