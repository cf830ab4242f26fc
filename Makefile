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
	$(CARGO) build --workspace --bin headwater --bin headwater-poller
	$(CARGO) nextest run --workspace

.PHONY: lint
lint: tools ## Check format, lints and documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --quiet

.PHONY: fuzz
fuzz: tools ## Try the parsers with many more made-up inputs than the tests do
	PROPTEST_CASES=$${PROPTEST_CASES:-20000} $(CARGO) test --workspace --lib

.PHONY: deny
deny: tools ## Check licences, bans and sources of dependencies
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --all-features check licenses bans sources

.PHONY: bench
bench: tools ## Measure speed and memory
	$(CARGO) build --release --package local --bin headwater
	$(HEADWATER) bench

# On AWS and on stand-ins for it.

.PHONY: cluster
cluster: tools ## Run a cluster of plain processes behind HAProxy, with simulated upstreams
	@command -v haproxy >/dev/null || test -x /usr/sbin/haproxy || { echo 'Install HAProxy first, such as: apt-get install haproxy' >&2; exit 1; }
	$(CARGO) build --release --workspace --bin headwater --bin headwater-poller
	@infra/cluster

# Programs from PyPI, in folders of their own.
TOOLS ?= $(or $(CARGO_TARGET_DIR),target)/tools
IN_TOOLS = PATH="$(abspath $(TOOLS))/aws/bin:$$PATH" SAM_CLI_TELEMETRY=0 AWS_DEFAULT_REGION=$${AWS_DEFAULT_REGION:-us-east-1}
$(TOOLS)/%/.done: infra/tools/%.txt
	@command -v python3 >/dev/null || { echo 'Install Python 3.9 or newer first' >&2; exit 1; }
	rm -rf $(@D)
	python3 -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# arm64 is cheaper, and needs Rust's standard library for it: rustup target add aarch64-unknown-linux-gnu
ARCH ?= $(shell test -d "$$(rustc --print sysroot)/lib/rustlib/aarch64-unknown-linux-gnu" && echo arm64 || echo x86_64)

.PHONY: package
package: tools $(TOOLS)/aws/.done ## Build the zips of the four functions; ARCH=arm64 or x86_64
	$(IN_TOOLS) CARGO_PROFILE_RELEASE_OPT_LEVEL=s cargo lambda build --release --locked --package functions --bins \
		--output-format zip $(if $(filter arm64,$(ARCH)),--arm64,--x86-64)
	@cd "$(or $(CARGO_TARGET_DIR),target)/lambda" && for name in authorize connection rest push; do \
		printf '%-11s %s %9d bytes\n' "$$name" $(ARCH) "$$(stat --format=%s $$name/bootstrap.zip)"; done

.PHONY: lint-templates
lint-templates: $(TOOLS)/aws/.done ## Check the templates
	$(IN_TOOLS) sam validate --lint
	$(IN_TOOLS) cfn-lint template.yaml infra/*.yaml

.PHONY: tools
tools:
	@command -v $(CARGO) >/dev/null || { echo 'Install Rust first: https://rustup.rs' >&2; exit 1; }
	@command -v cc >/dev/null || { echo 'Install a C compiler first, such as: apt-get install build-essential' >&2; exit 1; }
