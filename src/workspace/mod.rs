//! `workspace.toml`: schema, defaults, validation.
