//! Black-box tests: the binary, the socket, the pty. One test binary, so that it links once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests are tests")]

mod critics;
mod data;
mod demo;
mod embedders;
mod endpoints;
mod engine;
mod judge;
mod models;
mod planner;
mod screens;
mod serve;
#[path = "../../src/backend/endpoint/tests/server.rs"]
#[allow(dead_code, reason = "the unit tests use the rest")]
mod server;
mod train;
