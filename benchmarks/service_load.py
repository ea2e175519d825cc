"""Load on a running service: many clients at once, every answer compared with the first of its kind.

    python serve.py --port 8000
    python -m benchmarks.service_load --url http://127.0.0.1:8000 --clients 200 --seconds 60 --pid PID

Prints answers by status, answers per second, and the service's memory over time. The exit code is 1 if an answer was
wrong, or had a status other than 200 and the documented 503.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Any

import httpx
import psutil

from coupalign.cli import Argv, command, option, parse_own_arguments
from coupalign.files import REPOSITORY

EXAMPLES = REPOSITORY / "assets/examples"
OPTIONS = [
    option("--url URL", "address of the service", default="http://127.0.0.1:8000"),
    option("--clients INT", "clients at a time", default=200),
    option("--seconds INT", "how long", default=60),
    option("--pid INT", "process of the service, whose memory is printed"),
]


@command
def main(argv: Argv = None) -> int:
    args = parse_own_arguments(__doc__, argv, OPTIONS)
    return asyncio.run(_load(args.url, args.clients, args.seconds, args.pid))


async def _load(url: str, clients: int, seconds: int, pid: int | None) -> int:
    listed = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
    requests = [((EXAMPLES / each["image"]).read_bytes(), text) for each in listed for text in each["expressions"]]
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    statuses: Counter[Any] = Counter()
    memory: list[float] = []
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as client:
        expected = [await _ask(client, *request) for request in requests]
        end = time.monotonic() + seconds

        async def one(number: int) -> None:
            while time.monotonic() < end:
                which = number % len(requests)
                status, found = await _ask(client, *requests[which])
                right = status != 200 or _same(found, expected[which][1])
                statuses[status if right else "wrong answer"] += 1
                if status == 503:
                    await asyncio.sleep(1)  # as Retry-After asks
                number += 1

        async def watch() -> None:
            while time.monotonic() < end and pid:
                memory.append(psutil.Process(pid).memory_info().rss / 1e9)
                await asyncio.sleep(max(seconds / 6, 1))

        await asyncio.gather(watch(), *(one(number) for number in range(clients)))
    print(f"{clients} clients, {seconds} s: {dict(statuses)}; {statuses[200] / seconds:.1f} masks per second")
    print(f"memory in GB: {' '.join(f'{each:.2f}' for each in memory)}")
    return int(not set(statuses) <= {200, 503})


async def _ask(client: httpx.AsyncClient, image: bytes, expression: str) -> tuple[Any, Any]:
    try:
        files, data = {"image": ("a.png", image)}, {"expressions": [expression]}
        answer = await client.post("/v1/segment", files=files, data=data)
        return answer.status_code, answer.json()
    except httpx.TransportError as error:
        return type(error).__name__, None


def _same(found: dict, expected: dict) -> bool:
    """Batches may round differently: boxes within a pixel, scores within 1e-3, the same expression."""
    (one,), (other,) = found["results"], expected["results"]
    boxes = zip(one["box"] or [0] * 4, other["box"] or [0] * 4)
    near = all(abs(a - b) <= 1 for a, b in boxes) and abs(one["score"] - other["score"]) < 1e-3
    return near and one["expression"] == other["expression"]


if __name__ == "__main__":
    raise SystemExit(main())
