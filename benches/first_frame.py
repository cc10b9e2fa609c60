#!/usr/bin/env python3
"""Time from start to the first whole frame, CPU time while idle, and memory of the client, in a pty of 80x24.

usage: first_frame.py TUNEBENCH WORKSPACE [--runs 7]
Prints one JSON object. Needs nothing but Python; the workspace is opened as it is (make one with `tunebench demo --no-tui`).
"""
import fcntl, json, os, pty, select, signal, struct, sys, termios, time

binary, workspace = sys.argv[1:3]
runs = int(sys.argv[sys.argv.index("--runs") + 1]) if "--runs" in sys.argv else 7


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024


def read_for(fd, seconds):
    end, seen = time.perf_counter() + seconds, b""
    while (left := end - time.perf_counter()) > 0:
        if select.select([fd], [], [], left)[0]:
            try:
                seen += os.read(fd, 65536)
            except OSError:  # the client has left
                break
    return seen


def one(idle_seconds):
    start = time.perf_counter()
    pid, fd = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execv(binary, [binary, workspace])
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    seen, first, rows = b"", None, None
    while time.perf_counter() - start < 20 and rows is None:
        if select.select([fd], [], [], 1)[0]:
            seen += os.read(fd, 65536)
            now = time.perf_counter() - start
            if first is None and b"Strata" in seen and b"\x1b[?2026l" in seen:
                first = now
            if b"all rows" in seen:
                rows = now
    read_for(fd, 1.5)
    before = cpu_seconds(pid)
    idle_bytes = len(read_for(fd, idle_seconds))
    result = dict(first_frame_ms=1e3 * first, strata_shown_ms=1e3 * rows if rows else None,
                  idle_cpu_s=cpu_seconds(pid) - before, idle_bytes=idle_bytes, client_mib=rss_mib(pid))
    os.write(fd, b"q")
    read_for(fd, 0.5)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    os.waitpid(pid, 0)
    os.close(fd)
    return result


results = [one(10 if i == 0 else 0.1) for i in range(runs)]
median = lambda key: sorted(r[key] for r in results if r[key] is not None)[len(results) // 2]
print(json.dumps(dict(runs=runs, first_frame_ms=round(median("first_frame_ms"), 1),
                      strata_shown_ms=round(median("strata_shown_ms"), 1),
                      idle_seconds=10, idle_cpu_s=results[0]["idle_cpu_s"], idle_bytes=results[0]["idle_bytes"],
                      client_mib=round(max(r["client_mib"] for r in results), 1))))
