//! Running a row through the stages of a candidate.
