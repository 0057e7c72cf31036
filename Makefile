# Everything lives in .venv; `make help` lists what there is.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.complete
BENCH_STAMP := .venv/.bench
LONG_STAMP := .venv/.long
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

.DEFAULT_GOAL := help
.PHONY: help setup demo kafka test test-long lint types check format bench manifests render audit sbom lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: $(STAMP) ## install everything, by the hashes of the lock file, into .venv

$(STAMP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Carillon needs Python 3.11 or later; name one with: make PYTHON=/path/to/python3"; exit 1; }
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python "$$(command -v $(PYTHON))" .venv && \
		uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements-dev.lock && \
		uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e . ; \
	else \
		$(PYTHON) -m venv .venv && \
		$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock && \
		$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . ; \
	fi
	@touch $@

demo: setup ## a campaign of 100,000 recipients through simulators of three services, with its ledger
	@$(BIN)/carillon demo

test: setup kafka ## the tests
	$(BIN)/python -m pytest -n 3 --dist worksteal

kafka: # Kafka's own jars for the tests, once, by Maven; without Java its tests say that they are left out
	@if command -v java >/dev/null && command -v mvn >/dev/null; then bash bench/kafka/kafka.sh fetch; \
	else echo "NO TEST OF KAFKA IS RUN HERE: it needs Java 17 and Maven (Debian: openjdk-17-jre-headless maven)"; fi

test-long: $(LONG_STAMP) kafka ## every attack at full scale, and docs/reliability-report.md: 45 minutes; ONLY="R2 R16" for some rows
	@$(BIN)/python -m bench reliability --run $(ONLY)

lint: setup ## ruff: style and mistakes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy, strict
	$(BIN)/mypy

check: lint types test ## all that has to pass before a commit

format: setup ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(BENCH_STAMP) ## all benchmarks, and docs/performance.md with its plots; QUICK=1 for small counts
	@$(BIN)/python -m bench figures $(if $(QUICK),--quick)

$(BENCH_STAMP) $(LONG_STAMP): .venv/.%: $(STAMP) requirements-%.lock
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-$*.lock; \
	else \
		$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-$*.lock; \
	fi
	@touch $@

manifests: setup ## compose file, chart, manifests, alarms, unit and Dockerfile, with their own tools; says which is missing
	$(BIN)/python -m pytest -q tests/deploy --tools

render: ## write deploy/kubernetes/*.yaml anew from the chart (needs helm)
	deploy/kubernetes/render

audit: setup ## pip-audit: known vulnerabilities of what is locked; fails on what it cannot look up
	$(BIN)/pip-audit --strict --require-hashes --disable-pip --requirement requirements.lock

sbom: setup ## dist/carillon-VERSION.cdx.json: CycloneDX, what an installation is made of, with hashes
	@mkdir -p dist
	@$(BIN)/python -W ignore -m cyclonedx_py requirements --output-reproducible --pyproject pyproject.toml \
		--output-file dist/carillon-$(VERSION).cdx.json requirements.lock
	@echo dist/carillon-$(VERSION).cdx.json

lock: ## resolve the dependencies anew (needs uv); versions and hashes only
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--no-annotate --upgrade pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--no-annotate --upgrade --extra dev pyproject.toml -o requirements-dev.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--no-annotate --upgrade --extra bench pyproject.toml -o requirements-bench.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--no-annotate --upgrade --extra long pyproject.toml -o requirements-long.lock

clean: ## remove what setup, tests and demos made
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
