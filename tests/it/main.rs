//! Black-box tests: the binary, the socket, the pty. One test binary, so that it links once.

mod data;
mod engine;
mod screens;
mod train;
