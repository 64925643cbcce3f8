# What one does with this repository. PostgreSQL's server programs are installed if they are missing;
# every command starts a private server of its own and leaves nothing behind.

.PHONY: help demo test bench lint

help: ## Shows this.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Shows Posthaste at work: a minute, its own database, nothing to set up.
	@scripts/install-postgres
	cargo run --release --quiet -- demo

test: ## Runs every test, against a real PostgreSQL and a real PgBouncer.
	@scripts/install-postgres pgbouncer
	cargo test

bench: ## Measures what a delivery costs, everything or only WHAT: make bench WHAT="drain cost".
	@scripts/install-postgres
	cargo bench --bench bench -- $(WHAT)

lint: ## Checks formatting, clippy, and licences if cargo-deny is installed.
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; \
	else echo "cargo-deny is not installed: licences and sources are not checked"; fi
