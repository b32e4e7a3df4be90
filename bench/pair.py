"""CPU time a request of a pair of proxies, ours and nginx's, in the same run.

    wrk -> proxy A -> mutual TLS 1.3 -> proxy B -> a local server

Both proxies of a pair share one core; the load and the local server have the other. Access log, allow rule and metrics
are on, as they are by default. Rounds alternate between the pairs. Everything stays on the loopback interface.

    python bench/pair.py [--rounds 5] [--seconds 4] [--connections 32]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

PROXY_CORE, LOAD_CORE = "0", "1"
TICKS = os.sysconf("SC_CLK_TCK")
ROOT = Path(__file__).parent.parent


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def start(stack: ExitStack, core: str, command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        process = subprocess.Popen(["taskset", "-c", core, *command], stdout=out, stderr=subprocess.STDOUT)

    def end() -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()

    stack.callback(end)
    return process


def wait_until_answers(port: int, log: Path) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                answer.read()
                return
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"nothing answers on port {port}: {error}\n{log.read_text()[-2000:]}")
            time.sleep(0.05)


def backend(stack: ExitStack, folder: Path) -> int:
    port = free_port()
    config = folder / "backend.conf"
    config.write_text(f"""
        daemon off; worker_processes 1; pid {folder}/backend.pid; error_log {folder}/backend.err;
        events {{ worker_connections 4096; }}
        http {{ access_log off; keepalive_requests 1000000000;
          server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 "hello, world\\n"; }} }} }}""")
    start(stack, LOAD_CORE, ["nginx", "-c", str(config)], folder / "backend.log")
    wait_until_answers(port, folder / "backend.err")
    return port


def certificates(folder: Path) -> Path:
    certs = folder / "certs"
    command = [sys.executable, "-m", "sidecar", "certs", "init", str(certs), "--agent", "planner", "--agent", "tools"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return certs


def sidecar_pair(stack: ExitStack, folder: Path, certs: Path, upstream: int) -> tuple[int, list[int]]:
    outer, inner = free_port(), free_port()
    identity = """
version: 1
identity:
  certificate: {certs}/{name}/tls.crt
  key: {certs}/{name}/tls.key
  trust: {{example.org: {certs}/ca.crt}}
access_log: {folder}/{name}.log
admin: {{listen: "unix:{folder}/{name}.sock"}}
"""
    inbound = f"""
inbound:
  - name: tools
    listen: 127.0.0.1:{inner}
    forward: http://127.0.0.1:{upstream}
    allow: [{{caller: "spiffe://example.org/agent/planner/*"}}]
"""
    outbound = f"""
outbound:
  - name: tools
    listen: 127.0.0.1:{outer}
    connect: 127.0.0.1:{inner}
    peer: spiffe://example.org/agent/tools/*
"""
    processes = []
    for name, entry in (("tools", inbound), ("planner", outbound)):
        file = folder / f"{name}.yaml"
        file.write_text(identity.format(certs=certs, name=name, folder=folder) + entry)
        command = [sys.executable, "-m", "sidecar", "run", str(file)]
        processes.append(start(stack, PROXY_CORE, command, folder / f"{name}.err"))
    wait_until_answers(outer, folder / "planner.err")
    return outer, [process.pid for process in processes]


def nginx_pair(stack: ExitStack, folder: Path, certs: Path, upstream: int) -> tuple[int, list[int]]:
    outer, inner = free_port(), free_port()
    base = """
        daemon off; worker_processes 1; pid {folder}/nginx-{name}.pid; error_log {folder}/nginx-{name}.err;
        events {{ worker_connections 4096; }}
        http {{ access_log {folder}/nginx-{name}.access; keepalive_requests 1000000000;
          upstream up {{ server 127.0.0.1:{to}; keepalive 64; keepalive_requests 1000000000; }}
          server {{ {listen} location / {{ proxy_pass {scheme}://up; proxy_http_version 1.1;
            proxy_set_header Connection ""; proxy_set_header Host $http_host; {tls} }} }} }}"""
    tls_in = f"""listen 127.0.0.1:{inner} ssl backlog=4096; ssl_protocols TLSv1.3; ssl_verify_client on;
        ssl_certificate {certs}/tools/tls.crt; ssl_certificate_key {certs}/tools/tls.key;
        ssl_client_certificate {certs}/ca.crt;"""
    tls_out = f"""proxy_ssl_protocols TLSv1.3; proxy_ssl_certificate {certs}/planner/tls.crt;
        proxy_ssl_certificate_key {certs}/planner/tls.key; proxy_ssl_trusted_certificate {certs}/ca.crt;"""
    configs = {
        "in": base.format(folder=folder, name="in", to=upstream, listen=tls_in, scheme="http", tls=""),
        "out": base.format(
            folder=folder, name="out", to=inner, scheme="https", tls=tls_out, listen=f"listen 127.0.0.1:{outer};"
        ),
    }
    pids = []
    for name, text in configs.items():
        file = folder / f"nginx-{name}.conf"
        file.write_text(text)
        pids.append(start(stack, PROXY_CORE, ["nginx", "-c", str(file)], folder / f"nginx-{name}.log").pid)
    wait_until_answers(outer, folder / "nginx-out.err")
    return outer, pids


def family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(grandchild for child in children for grandchild in family(int(child)))]


def cpu_seconds(pids: list[int]) -> float:
    total = 0
    for pid in (member for each in pids for member in family(each)):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def resident_mib(pids: list[int]) -> float:
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for each in pids for pid in family(each))
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def load(port: int, seconds: int, connections: int) -> tuple[int, str]:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", f"http://127.0.0.1:{port}/x"]
    done = subprocess.run(["taskset", "-c", LOAD_CORE, *command], capture_output=True, text=True, check=True)
    found = re.search(r"(\d+) requests in", done.stdout)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)|Socket errors: .*", done.stdout)
    if found is None or bad is not None:
        sys.exit(f"the load went wrong:\n{done.stdout}")
    p50 = re.search(r"^ +50% +(\S+)", done.stdout, re.MULTILINE)
    return int(found[1]), p50[1] if p50 else "?"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--connections", type=int, default=32)
    args = parser.parse_args()
    lacking = [program for program in ("nginx", "wrk", "taskset") if shutil.which(program) is None]
    if lacking:
        print(f"missing on this machine: {', '.join(lacking)} (apt-get install nginx-light wrk util-linux)")
        return 1
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = backend(stack, folder)
        certs = certificates(folder)
        pairs = {
            "sidecar": sidecar_pair(stack, folder, certs, upstream),
            "nginx": nginx_pair(stack, folder, certs, upstream),
        }
        costs: dict[str, list[float]] = {name: [] for name in pairs}
        for port, _ in pairs.values():
            load(port, 1, args.connections)  # warm-up
        for number in range(args.rounds):
            for name, (port, pids) in pairs.items():
                before = cpu_seconds(pids)
                requests, p50 = load(port, args.seconds, args.connections)
                cost = (cpu_seconds(pids) - before) / requests * 1e6
                costs[name].append(cost)
                rate = requests / args.seconds
                print(
                    f"round {number + 1}  {name:8} {cost:6.1f} us CPU a request  {rate:8.0f}/s  p50 {p50}", flush=True
                )
        medians = {name: statistics.median(values) for name, values in costs.items()}
        memory = {name: resident_mib(pids) for name, (_, pids) in pairs.items()}
        for name, values in costs.items():
            spread = f"{min(values):.1f}-{max(values):.1f}"
            print(
                f"{name:8} median {medians[name]:6.1f} us  ({spread})  both processes {memory[name]:.0f} MiB resident"
            )
        print(f"ratio sidecar / nginx: {medians['sidecar'] / medians['nginx']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
