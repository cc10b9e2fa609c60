//! The terminal interface: state, messages, screens. Names no socket, no store, no model.
