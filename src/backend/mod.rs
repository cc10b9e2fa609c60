//! Something that answers.
