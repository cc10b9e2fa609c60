//! The embedded store and the journal.
