//! Metrics, paired statistics, cost, the board.
