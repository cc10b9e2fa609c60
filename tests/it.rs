//! Black-box tests: the binary, the socket, the pty.
