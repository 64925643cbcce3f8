# What one does with this repository. PostgreSQL's server programs are installed if they are missing;
# every command starts a private server of its own and leaves nothing behind.

.PHONY: help demo test simulate bench lint

help: ## Shows this.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Shows Posthaste at work: a minute, its own database, nothing to set up.
	@scripts/install-postgres
	cargo run --release --quiet -- demo

test: ## Runs every test, against a real PostgreSQL.
	@scripts/install-postgres
	cargo test

simulate: ## Runs random operation lists with faults: make simulate MINUTES=60 SEED=1 (LISTS=1: that one alone).
	@scripts/install-postgres
	MINUTES=$(or $(MINUTES),10) SEED=$(or $(SEED),1000) LISTS=$(or $(LISTS),1000000) \
	cargo test --test main simulation::simulate_for_long -- --ignored --nocapture

bench: ## Measures what a delivery costs, everything or only WHAT: make bench WHAT="drain cost".
	@scripts/install-postgres
	cargo bench --bench bench -- $(WHAT)

lint: ## Checks formatting, clippy, and licences if cargo-deny is installed.
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; \
	else echo "cargo-deny is not installed: licences and sources are not checked"; fi
