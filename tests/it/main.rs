//! Black-box tests: the binary, the socket, the pty. One test binary, so that it links once.

mod engine;
mod train;
