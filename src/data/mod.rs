//! Formats, row index, import, quarantine.
