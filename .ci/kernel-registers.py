#!/usr/bin/env python3
"""Prints registers and spills of every kernel for compute 8.0 and 9.0; fails where a hot one spills.

usage: kernel-registers.py FOLDER    (the wheels' nvidia/cu13: lib/libnvrtc.so.13 and bin/ptxas)
"""

import concurrent.futures
import ctypes
import pathlib
import re
import subprocess
import sys
import tempfile

ARCHITECTURES = ["80", "90"]
# Bytes that may be spilled, stores and loads together; all others: none. Heads of 129 to 256 are rare: their accumulators
# of two gradients do not fit, and what spills is read once a block of queries.
MAY_SPILL = {"attention_256": 64, "attention_backward_q_256": 64, "attention_backward_kv_256": 2048}

home = pathlib.Path(sys.argv[1])
kernels = pathlib.Path(__file__).resolve().parent.parent / "kernels"
ctypes.CDLL(str(next((home / "lib").glob("libnvrtc-builtins.so.*"))), mode=ctypes.RTLD_GLOBAL)
nvrtc = ctypes.CDLL(str(next((home / "lib").glob("libnvrtc.so.*"))))


def strings(values):
    return (ctypes.c_char_p * len(values))(*values)


def ptx(file, arch):
    headers = sorted(kernels.glob("*.h"))
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), file.read_bytes(), file.name.encode(), len(headers),
        strings([h.read_bytes() for h in headers]), strings([h.name.encode() for h in headers]),
    )
    options = [f"--gpu-architecture=compute_{arch}".encode(), b"--std=c++17"]
    failed = nvrtc.nvrtcCompileProgram(program, len(options), strings(options))
    what = "ProgramLog" if failed else "PTX"
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, text)
    if failed:
        sys.exit(f"{file.name} for compute_{arch}: {text.value.decode()}")
    return text.value


def usage(job):
    file, arch = job
    with tempfile.NamedTemporaryFile(suffix=".ptx") as source:
        source.write(ptx(file, arch))
        source.flush()
        command = [home / "bin" / "ptxas", "-v", f"-arch=sm_{arch}", source.name, "-o", "/dev/null"]
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{file.name} for sm_{arch}: {result.stderr}")
    pattern = (r"entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers"
               r"(?:[^\n]*?(\d+) bytes smem)?")
    return [(name, arch, int(registers), int(stores), int(loads), int(shared or 0))
            for name, stores, loads, registers, shared in re.findall(pattern, result.stderr, re.DOTALL)]


jobs = [(file, arch) for file in sorted(kernels.glob("*.cu")) for arch in ARCHITECTURES]
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    found = {(use[0], use[1]): use[2:] for uses in pool.map(usage, jobs) for use in uses}
names = list(dict.fromkeys(name for name, _ in found))
if not names:
    sys.exit("ptxas names no kernel")
too_many = []
print(f"{'kernel':28}" + "".join(f" | sm_{arch}: registers  spilled   static shared" for arch in ARCHITECTURES))
for name in names:
    line = f"{name:28}"
    for arch in ARCHITECTURES:
        registers, stores, loads, shared = found[name, arch]
        line += f" | {registers:16}  {stores:4}+{loads:<4} {shared:14}"
        if stores + loads > MAY_SPILL.get(name, 0):
            too_many.append(f"{name} spills {stores} + {loads} bytes on sm_{arch}, {MAY_SPILL.get(name, 0)} are allowed")
    print(line)
if too_many:
    sys.exit("\n".join(too_many))
