# Every target does all of its own set-up; `make` alone lists them.

PYTHON = python3
MODEL ?= demo
PORT ?= 8000
# Not ?=, because conda and csh export a HOST of their own.
HOST = 127.0.0.1
TESTS =
# These compute alone, so several run at once. All others are a server's, a browser's or a terminal's, which
# come too late where they do not have a core of their own, or bound what an input may cost of a processor.
COMPUTING_TESTS = tests/machine_code tests/numerics tests/host_shim tests/unit tests/diagnose tests/doctor

# Hundreds of processes import the same modules: what Python compiled of them is kept, whatever a shell exports.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup serve test check bench

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' Makefile

setup: ## make .venv with all that is needed (PASCALINE_TORCH replaces the choice of torch)
	@command -v $(PYTHON) >/dev/null || { echo "setup: no $(PYTHON) here; this mends it:" \
		"sudo apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) scripts/setup.py
	@.venv/bin/python scripts/build_native.py

serve: setup ## serve a model over HTTP: MODEL=demo PORT=8000 HOST=127.0.0.1
	@exec .venv/bin/pascaline serve '$(MODEL)' --host '$(HOST)' --port '$(PORT)'

test: setup ## run the tests: TESTS=tests/unit for some of them
ifdef TESTS
	@exec .venv/bin/python -m pytest $(TESTS)
else
	@status=0; .venv/bin/python -m pytest -n logical --maxprocesses 4 --dist worksteal $(COMPUTING_TESTS) || status=1; \
		.venv/bin/python -m pytest $(COMPUTING_TESTS:%=--ignore=%) || status=1; exit $$status
endif

check: setup ## lint, format, types and layers
	@status=0; for command in "ruff check" "ruff format --check" mypy lint-imports; do \
		echo "== $$command"; .venv/bin/$$command || status=1; done; exit $$status

bench: setup ## run the benchmarks
	@status=0; for script in benchmarks/*.py; do \
		echo "== $$script"; .venv/bin/python "$$script" || status=1; done; exit $$status
