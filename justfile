# Everyday commands. `just` lists them.

_default:
    @just --list

# Everything that CI runs
ci:
    .ci/run

# Format, lint, documentation
lint:
    cargo fmt --check
    cargo clippy --release --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --release --no-deps

# All tests, as the README says
test:
    cargo test --release

# The demo in the TUI
demo:
    cargo run --release -- demo
