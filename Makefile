# Two commands need no preparation on a fresh machine with Python 3.11 and git:
#   make demo         the whole product on a simulated cluster, on http://127.0.0.1:8080
#   make test         everything that CI runs
# A third shows the main job: make quickstart, with a real Prometheus, `forecaster check` and `forecaster serve`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := serve,torch,onnx,registry,train,postgres,plot,dev
STAMP := $(VENV)/.installed

.PHONY: setup debian demo quickstart check test format lock docs benchmark clean

# The page's charts come from npm, by lock file; without npm a line says so, and the page shows its data tables.
setup: $(STAMP)
	$(BIN)/python tools/page_assets.py

# PyTorch first and by exact pin: a looser one pulls gigabytes of CUDA packages (constraints/cpu.txt).
$(STAMP): pyproject.toml constraints/lock.txt constraints/cpu.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement constraints/cpu.txt
	$(BIN)/pip install --quiet --constraint constraints/lock.txt --editable '.[$(EXTRAS)]'
	touch $@

# Debian's packages for the quick start, the page and the tests; does nothing where they are already there.
debian:
	sh tools/debian-packages.sh prometheus chromium npm

demo: setup
	$(BIN)/forecaster demo $(ARGS)

quickstart: debian setup
	$(BIN)/python tools/quickstart.py $(ARGS)

# Fast: format, lint, strict types, import layers, unit tests.
check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -n auto -m "not prometheus and not browser and not slow"

test: debian setup
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
	$(BIN)/python tests/benchmarks/page.py
	$(BIN)/python tests/benchmarks/hpa_simulation.py
	$(if $(DATA),$(BIN)/forecaster benchmark --data $(DATA) --speed,@echo "forecast accuracy: set DATA=folder of tidy files")

clean:
	rm -rf .venv .quickstart site web/node_modules serving/static/vendor .mypy_cache .ruff_cache .pytest_cache .hypothesis
