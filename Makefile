.DEFAULT_GOAL := help
IMAGE ?= retrain

# "stale" unless .venv was made for this folder, its Python still starts, and no other was asked for
stale := $(shell { grep -qxF "$(CURDIR)" .venv/.ready && .venv/bin/python -c ''; } 2>/dev/null || echo stale)
ifeq ($(origin PYTHON),command line)
stale := stale
endif

.PHONY: help setup demo test test-long test-docs conformance lint bench bench-learning reference image clean stale

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready ## make .venv from uv.lock; the other targets do it when it is due

.venv/.ready: pyproject.toml uv.lock deploy/setup.sh $(stale)
	bash deploy/setup.sh

demo: .venv/.ready ## show the whole loop on real data
	bash deploy/demo.sh

test: .venv/.ready ## run the tests
	.venv/bin/pytest

test-long: .venv/.ready ## run the end-to-end tests that take minutes: kills, canaries, feedback, forgetting
	.venv/bin/pytest -m long

test-docs: .venv/.ready ## type every command of the documentation, and compare what it prints
	.venv/bin/pytest -n 0 -m docs

conformance: .venv/.ready ## hold a server against TF Serving's protocol (GRPC=HOST:PORT REST=HOST:PORT FOLDER=DIR)
	SERVING_GRPC=$(GRPC) SERVING_REST=$(REST) SERVING_FOLDER=$(FOLDER) .venv/bin/pytest -n 0 tests/serving/conformance

lint: .venv/.ready ## check style, types, layering, shell scripts and Dockerfile
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/shellcheck deploy/*.sh .ci/run
	.venv/bin/hadolint Dockerfile

bench: .venv/.ready ## measure; the results are bench/*.json
	.venv/bin/python -m tests.bench

bench-learning: .venv/.ready ## measure what is kept and forgotten: hours; docs/benchmarks.md (QUICK=1: a slice)
	.venv/bin/python -m tests.bench.learning $(if $(QUICK),--quick)

reference: .venv/.ready ## write docs/configuration.md anew, from the model that reads the files
	.venv/bin/python -m pipeline.config.reference_page > docs/configuration.md.new
	mv docs/configuration.md.new docs/configuration.md

image: ## build the container image with docker or podman (IMAGE=name)
	@for builder in docker podman; do \
		if $$builder info >/dev/null 2>&1; then exec $$builder build --tag "$(IMAGE)" .; fi; \
	done; \
	echo "make image: 'docker info' and 'podman info' both fail; install podman, or start the Docker engine" >&2; exit 1

clean: ## remove .venv, .tools, caches, bench and the demo's data and state; other deployments stay
	rm -rf .venv .tools bench data/taxi state/taxi
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage
	find components pipeline serving tests -name __pycache__ -type d -prune -exec rm -rf {} +
