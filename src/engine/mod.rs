//! The engine: one per workspace, the only process that opens the store.
