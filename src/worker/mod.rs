//! The worker: one process per run, started as `tunebench worker RUN_DIR`.
