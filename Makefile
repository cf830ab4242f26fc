# Every command a person runs. `make` alone lists them.

SHELL := /bin/bash
CARGO ?= cargo
# Compiled once and fast to run: the demo is what people judge the speed by.
HEADWATER = $(CARGO) run --release --quiet --package local --bin headwater --

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-8s %s\n", $$1, $$2 }'

.PHONY: demo
demo: tools ## Run everything on this machine, with simulated upstreams
	$(CARGO) build --release --package local --bin headwater
	$(HEADWATER) up --simulated

.PHONY: up
up: tools ## Run everything on this machine, with the live upstreams
	$(CARGO) build --release --package local --bin headwater
	$(HEADWATER) up

.PHONY: test
test: tools ## Run all tests
	@$(CARGO) nextest --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-nextest
	$(CARGO) build --package local --bin headwater
	$(CARGO) nextest run --workspace

.PHONY: lint
lint: tools ## Check format, lints and documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --quiet

.PHONY: bench
bench: tools ## Measure speed and memory
	$(CARGO) build --release --package local --bin headwater
	$(HEADWATER) bench

.PHONY: tools
tools:
	@command -v $(CARGO) >/dev/null || { echo 'Install Rust first: https://rustup.rs' >&2; exit 1; }
	@command -v cc >/dev/null || { echo 'Install a C compiler first, such as: apt-get install build-essential' >&2; exit 1; }
