"""What takes part in a case: the functions as in their pods, the rivals, Broker and target."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import redis

from bench.load import Request
from bench.processes import BenchError, Lab, Server
from bench.target import ANSWER
from local import manifests
from local.functions import Function, function_environment
from local.ports import HOST, free_port
from local.process import REPOSITORY, clean_environment

PROBE = "/health/readiness"
RIVALS = Path(__file__).parent / "rivals"

_MANIFESTS = REPOSITORY / "knative"
_EVENTING = ("100-broker.yaml", "30*-receive*-trigger.yaml", "310-results-trigger.yaml")
_SERVICES = {"send": "send-serving", "receive": "receive-cloudevent-service"}
_NGINX = """\
daemon off;
master_process off;
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    client_max_body_size 2m;
    client_body_buffer_size 2m;
    keepalive_requests 100000000;
    sendfile on;
    tcp_nodelay on;
    {upstream}
    server {{
        listen {host}:{port} backlog=1024;
        {locations}
    }}
}}
"""
_UPSTREAM = """upstream target {{
        server {host}:{port};
        keepalive 64;
        keepalive_requests 100000000;
    }}"""
_PROXY = """location / {
            proxy_pass http://target;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_max_temp_file_size 0;
        }"""


def has_nginx() -> bool:
    """Tell whether nginx can take part."""
    return shutil.which("nginx") is not None


def quick_target(lab: Lab) -> Server:
    """Start a target that answers at once: nginx, else `bench.target`."""
    if not has_nginx():
        return target(lab)
    large = lab.folder / "large"
    large.touch()
    os.truncate(large, 100_000_000)
    locations = f"""location / {{
            default_type application/json;
            return 200 '{ANSWER.decode()}';
        }}
        location = /large {{ root {lab.folder}; }}"""
    return _nginx(lab, "target", "", locations, cores=lab.cores.others)


def quick_broker(lab: Lab) -> Server:
    """Start what takes each event at once and leaves it at that: nginx, else `bench.target`."""
    if not has_nginx():
        return target(lab)
    return _nginx(lab, "broker", "", "location / { return 202; }", cores=lab.cores.others)


def has_redis() -> bool:
    """Tell whether Redis can take part."""
    return shutil.which("redis-server") is not None


@contextmanager
def redis_server(folder: Path, *, is_durable: bool = True) -> Iterator[str]:
    """Run Redis as knative/ has it while the block runs, and give its URL.

    Args:
        is_durable: Each write is on the disk before it is answered.
    """
    port = free_port()
    folder.mkdir(exist_ok=True)
    command = ["redis-server", "--port", str(port), "--bind", HOST, "--dir", str(folder)]
    command += ["--save", "", "--appendonly", "yes"]
    command += ["--appendfsync", "always" if is_durable else "no"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            url = f"redis://{HOST}:{port}"
            give_up_at_s = time.monotonic() + 10
            with redis.Redis.from_url(url) as client:
                while time.monotonic() < give_up_at_s:
                    with suppress(redis.ConnectionError):
                        client.ping()
                        break
                    time.sleep(0.05)
                else:
                    raise BenchError("redis-server does not answer")
            yield url
        finally:
            process.kill()


def target(lab: Lab) -> Server:
    """Start the target that can be slow, and tells what reached it."""
    port = free_port()
    command = [sys.executable, "-m", "bench.target", str(port)]
    return lab.start("target", command, port=port, cores=lab.cores.others)


def proxy(lab: Lab, called: Server) -> Server:
    """Start nginx as a plain reverse proxy before the target, its connections kept."""
    upstream = _UPSTREAM.format(host=HOST, port=called.port)
    return _nginx(lab, "nginx", upstream, _PROXY, cores=lab.cores.server)


def _nginx(lab: Lab, name: str, upstream: str, locations: str, *, cores: frozenset[int]) -> Server:
    port = free_port()
    folder = lab.folder / f"nginx-{port}"
    folder.mkdir()
    text = _NGINX.format(host=HOST, port=port, upstream=upstream, locations=locations)
    (folder / "nginx.conf").write_text(text)
    command = ["nginx", "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]
    return lab.start(name, command, port=port, cores=cores)


def pod(
    lab: Lab,
    name: str,
    *,
    called: Server,
    broker_port: int = 9,
    settings: Mapping[str, str] | None = None,
) -> tuple[Function, dict[str, str]]:
    """Say how Send or Receive runs in its pod: func.yaml's environment and one worker.

    Args:
        name: `send` or `receive`.
        called: The target, which is allowed.
        broker_port: Where events are published; by default nowhere.
        settings: Others than func.yaml's.
    """
    declared = Function(REPOSITORY / "functions" / name)
    env = function_environment(
        declared,
        {**clean_environment(os.environ), **(settings or {})},
        manifests.load(_MANIFESTS),
        broker_url=f"http://{HOST}:{broker_port}",
        sample_api=f"localhost:{called.port}",
        state_url=f"sqlite://{lab.folder}/state.sqlite3",
    )
    return declared, {**env, "WORKERS": "1"}


def function(
    lab: Lab,
    name: str,
    *,
    called: Server,
    broker_port: int = 9,
    threads: int | None = None,
    settings: Mapping[str, str] | None = None,
    cores: frozenset[int] | None = None,
) -> Server:
    """Start Send or Receive as its pod does; `pod` says what the arguments are.

    Args:
        threads: As func.yaml has it when not given.
    """
    given = {**(settings or {}), **({"THREADS": str(threads)} if threads else {})}
    declared, env = pod(lab, name, called=called, broker_port=broker_port, settings=given)
    port = free_port()
    return lab.start(
        name,
        declared.command(sys.executable, HOST, port),
        port=port,
        cwd=declared.source_folder,
        env=env,
        cores=cores,
        ready_path=PROBE,
    )


def rival(lab: Lab, name: str, *, broker_port: int = 9, threads: int | None = None) -> Server:
    """Start a function of `rivals/` as Send is started."""
    port = free_port()
    return lab.start(
        name,
        [
            *(sys.executable, "-m", "functions_framework", "--source", f"{name}.py"),
            *("--target", "relay", "--host", HOST, "--port", str(port)),
            *("--signature-type", "cloudevent" if name == "event" else "http"),
        ],
        port=port,
        cwd=RIVALS,
        env={
            **clean_environment(os.environ),
            "THREADS": str(threads or Function(REPOSITORY / "functions/send").envs["THREADS"]),
            "WORKERS": "1",
            "K_SINK": f"http://{HOST}:{broker_port}/default/default",
        },
        ready_path=PROBE,
    )


def broker(
    lab: Lab,
    services: Mapping[str, str],
    *,
    port: int,
    cores: frozenset[int] | None = None,
    like: str = "in-memory",
) -> Server:
    """Start the local Broker with the relay's own Triggers, those of Receive and of results.

    Args:
        services: The URLs of `send` and `receive`.
        port: Chosen by the caller, since Send is told of it before. An earlier one of the same
            port is gone on with.
        like: Whose dispatcher it follows.
    """
    folder = lab.folder / f"broker-{port}"
    folder.mkdir(exist_ok=True)
    for pattern in _EVENTING:
        for file in _MANIFESTS.glob(pattern):
            shutil.copy(file, folder)
    command = [
        *(sys.executable, "-m", "local.broker", "--port", str(port), "--like", like),
        *("--manifests", str(folder), "--data", str(folder / "data")),
    ]
    for name, url in services.items():
        command += ["--service", f"{_SERVICES[name]}={url}"]
    return lab.start("broker", command, port=port, cores=cores, ready_path="/healthz")


def broker_database(lab: Lab, port: int) -> Path:
    """Return where the Broker of a port keeps what it owes."""
    return lab.folder / f"broker-{port}" / "data" / "broker.sqlite3"


def envelope(port: int, *, path: str | None = None, body: object = None) -> Request:
    """Make the request that a caller of the relay sends: the example's, to this target.

    Args:
        path: In the place of the example's.
        body: In the place of the example's.
    """
    text = (REPOSITORY / "examples/post_sync_tasks.json").read_text(encoding="utf-8")
    call = json.loads(text)
    call["targetURL"] = f"http://localhost:{port}"
    call["targetAPI"] = path or call["targetAPI"]
    call["body"] = call["body"] if body is None else body
    return Request(
        headers={"Content-Type": "application/json"}, body=json.dumps(call, indent=2).encode()
    )


def event(request: Request) -> Request:
    """Make the request event of a call, as a publisher posts it to a Broker."""
    return Request(
        headers={
            **request.headers,
            "ce-specversion": "1.0",
            "ce-type": "dev.knative.samples.t2",
            "ce-source": "dev.knative.samples/t2",
        },
        body=request.body,
        numbered_header="ce-id",
    )
