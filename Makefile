# Two commands need no preparation on a fresh machine with Python 3.11 and git:
#   make quickstart   the main job: a real Prometheus with two weeks of history, `forecaster check`, `forecaster serve`
#   make test         everything that CI runs
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := serve,torch,onnx,registry,train,postgres,plot,dev
STAMP := $(VENV)/.installed

.PHONY: setup debian quickstart check test format lock docs benchmark clean

setup: $(STAMP)

# PyTorch first and by exact pin: a looser one pulls gigabytes of CUDA packages (constraints/cpu.txt).
$(STAMP): pyproject.toml constraints/lock.txt constraints/cpu.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement constraints/cpu.txt
	$(BIN)/pip install --quiet --constraint constraints/lock.txt --editable '.[$(EXTRAS)]'
	touch $@

# Prometheus (Debian's package) for the quick start and the tests; does nothing where it is already there.
debian:
	sh tools/debian-packages.sh prometheus

quickstart: setup debian
	$(BIN)/python tools/quickstart.py $(ARGS)

# Fast: format, lint, strict types, import layers, unit tests.
check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -n auto -m "not prometheus and not browser and not slow"

test: setup debian
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --strict --quiet
	# The cases made from the OpenAPI document share one name, of which a worker would run one.
	$(BIN)/pytest -q tests/serving/test_contract.py
	$(BIN)/pytest -q -n auto --dist loadfile --ignore tests/serving/test_contract.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Pins what is installed now; run it after changing pyproject.toml, in a new virtual environment.
lock: setup
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints/lock.txt

docs: setup
	$(BIN)/mkdocs serve

# The figures of docs/benchmarks.md. DATA is a folder of tidy files.
benchmark: setup
	$(BIN)/python tests/benchmarks/cycle.py
	$(BIN)/python tests/benchmarks/rest.py
	$(BIN)/python tests/benchmarks/actuator.py
	$(if $(DATA),$(BIN)/python tests/benchmarks/forecast_accuracy.py $(DATA),@echo "forecast accuracy: set DATA=folder of tidy files")

clean:
	rm -rf .venv .quickstart site .mypy_cache .ruff_cache .pytest_cache .hypothesis
