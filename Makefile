# `make` alone lists what there is.

CARGO ?= cargo
# The port of the demo; 0 takes any that is free.
PORT ?= 9090

.DEFAULT_GOAL := help
.PHONY: help build demo test fmt check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build target/release/adit
	@$(CARGO) build --locked --release

demo: ## build it, then server, agent and a small site in one process (PORT=9090)
	@$(CARGO) build --locked --release
	@$(CARGO) run --locked --release --quiet -- demo --port $(PORT)

test: ## everything: format, lints, all tests; installs what the tests need first
	@echo "== what the tests need"
	@tests/install.sh
	@$(MAKE) --no-print-directory check
	@echo "== tests"
	@$(CARGO) test --locked

fmt: ## format the sources
	@$(CARGO) fmt

check: ## format check and lints
	@echo "== format"
	@$(CARGO) fmt --check
	@echo "== lints"
	@$(CARGO) clippy --locked --all-targets -- -D warnings

clean: ## remove everything that was built
	@$(CARGO) clean
