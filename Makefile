# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.complete
# No telemetry from the tools underneath.
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1

.PHONY: setup demo browser docs vendor guides test check lint types rooms fuzz gpu bench bench-loaders bench-train bench-eval clean

RUNS ?= 150000

$(SETUP): pyproject.toml constraints.txt
	@echo "skelstream: setting up $(VENV) (one to three minutes)"
	@$(PYTHON) -m venv $(VENV)
	@# torch by exact version in the same command: a range takes the newest CUDA build even where a CPU build is offered.
	@# -qq leaves errors, and drops pip's remarks about the registries it looked at.
	@$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt torch==2.13.0 -e '.[dev]'
	@# Compiled once a machine; without this the first conversion, training and statistics would wait for it.
	@$(BIN)/python -c "import flows, pipelines.parsers.scan, pipelines.preprocessing.kernels, pipelines.preprocessing.survey, pipelines.quality.measuring, pipelines.views.kernels, pipelines.views.passes, pipelines.augmentations.draw_kernels"
	@touch $@

setup: $(SETUP)

demo: $(SETUP)
	@$(BIN)/skelstream demo --out demo

# Debian's Chromium, for the tests in a real browser; where it cannot be installed they are skipped, saying so, but in CI they fail.
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& echo "skelstream: installing chromium for the browser tests" \
		&& apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; } || true

# A process a core, each with one thread. A file stays in one process, because its tests share what they made; the long
# ones (end_to_end, faults) come first, by their names.
test: $(SETUP) browser
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

# Every guide, typed word by word; some ten minutes. `make test` leaves out the two that start a server and workers.
guides: $(SETUP)
	@GUIDES=all OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/end_to_end/test_guides.py

# The reference pages, from the code.
docs: $(SETUP)
	@$(BIN)/python -m flows.cli.reference docs/reference

# three.js, bundled; needs node. The result is committed, so that nobody else does.
vendor:
	@cd flows/pages/web && npm ci && npm run build && rm -rf node_modules

lint: $(SETUP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(SETUP)
	@$(BIN)/mypy

rooms: $(SETUP)
	@$(BIN)/lint-imports

check: lint types rooms test

# Eight targets, 1.2 million inputs, some three minutes; findings lie in this folder as crash-*, timeout-*, oom-*.
fuzz: $(SETUP)
	@$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt torch==2.13.0 -e '.[dev,fuzz]'
	@for target in ntu pkummd1 labels nwucla tar index manifest archive; do echo "== $$target"; \
		$(BIN)/python tests/fuzz/fuzz.py $$target -runs=$(RUNS) || exit 1; done

# Needs a CUDA device and whatever python has the packages; touches no network.
GPU_PYTHON = $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
gpu:
	@$(GPU_PYTHON) -m pytest -m gpu tests/gpu
	@PYTHONPATH=. $(GPU_PYTHON) tests/benchmarks/training.py --device cuda
	@PYTHONPATH=. $(GPU_PYTHON) tests/benchmarks/evaluation.py --device cuda

# All but what trains for long, the ablations (hours and a data set) and detection (half an hour), or needs runs: report.py.
bench: $(SETUP)
	@for script in $(filter-out %/ablations.py %/detection.py %/report.py,$(wildcard tests/benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

# Every loader beside the reference in one process; some minutes.
bench-loaders: $(SETUP)
	@OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/loaders.py

# A training step beside the reference, frame by frame; some five minutes.
bench-train: $(SETUP)
	@$(BIN)/python tests/benchmarks/training.py
	@$(BIN)/python tests/benchmarks/training.py --parts --batch 32

# Every downstream task beside a reference and beside what limits it; some five minutes.
bench-eval: $(SETUP)
	@$(BIN)/python tests/benchmarks/evaluation.py

clean:
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
