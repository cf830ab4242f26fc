# Every command a person runs. `make` alone lists them.

SHELL := /bin/bash
CARGO ?= cargo
# Compiled once and fast to run: the demo is what people judge the speed by.
HEADWATER = $(CARGO) run --release --quiet --package local --bin headwater --

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-8s %s\n", $$1, $$2 }'

# What the page is built from.
WEB := $(shell find web/client/src web/app/src web/app/public web/app/scripts -type f) web/app/index.html \
	web/app/vite.config.ts web/tsconfig.base.json web/client/tsconfig.build.json
NPM_CI = npm ci --no-audit --no-fund --loglevel=error

.PHONY: demo
demo: tools web ## Run everything on this machine, with simulated upstreams
	$(CARGO) build --release --package local --bin headwater
	$(HEADWATER) up --simulated

.PHONY: up
up: tools web ## Run everything on this machine, with the live upstreams
	$(CARGO) build --release --package local --bin headwater
	$(HEADWATER) up

.PHONY: test
test: tools web chromium ## Run all tests
	@$(CARGO) nextest --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-nextest
	$(CARGO) build --package local --bin headwater
	$(CARGO) nextest run --workspace
	cd web && npm test

.PHONY: lint
lint: tools web/node_modules/.installed ## Check format, lints and documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --quiet
	cd web && npm run --silent lint

.PHONY: web
web: web/app/dist/index.html ## Build the web page, if it has changed

web/app/dist/index.html: web/node_modules/.installed $(WEB)
	cd web && npm run --silent build

web/node_modules/.installed: web/package-lock.json web/package.json web/client/package.json web/app/package.json web/.npmrc | node
	cd web && $(NPM_CI)
	@touch $@

.PHONY: node
node:
	@node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' 2>/dev/null \
		|| { echo 'Install Node.js 20.19 or later first: https://nodejs.org' >&2; exit 1; }

# The browser of the tests: Debian's, or Playwright's own.
.PHONY: chromium
chromium: web/node_modules/.installed
	@if [ ! -x /usr/bin/chromium ]; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq chromium >/dev/null; \
		else \
			cd web && npx playwright install chromium; \
		fi; \
	fi

.PHONY: bench
bench: tools ## Measure speed and memory
	$(CARGO) build --release --package local --bin headwater
	$(HEADWATER) bench

.PHONY: tools
tools:
	@command -v $(CARGO) >/dev/null || { echo 'Install Rust first: https://rustup.rs' >&2; exit 1; }
	@command -v cc >/dev/null || { echo 'Install a C compiler first, such as: apt-get install build-essential' >&2; exit 1; }
