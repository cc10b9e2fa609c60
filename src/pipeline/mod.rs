//! Running a row through the stages of a candidate: templates, answers, reading them, retries.

pub mod output;
