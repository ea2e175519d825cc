"""Load on a running service: many clients at once, every mask compared with the one of a request that was alone.

    python serve.py --port 8000
    python -m benchmarks.service_load --url http://127.0.0.1:8000 --clients 200 --seconds 60 --pid PID

Prints answers by status, masks per second, the smallest overlap with the right masks, and the service's memory over
time. The exit code is 1 if an answer was wrong, or had a status other than 200 and the documented 503.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Any

import httpx
import psutil
from pycocotools import mask as coco

from coupalign.cli import Argv, command, option, parse_own_arguments
from coupalign.errors import UserError
from coupalign.files import REPOSITORY

EXAMPLES = REPOSITORY / "assets/examples"
SAME = 0.99  # overlap of equal answers; in another batch, some pixels beside the threshold may round differently
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
    overlaps: list[float] = []
    memory: list[float] = []
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as client:
        expected = [await _right(client, *request) for request in requests]
        end = time.monotonic() + seconds

        async def one(number: int) -> None:
            while time.monotonic() < end:
                which = number % len(requests)
                status, answer = await _ask(client, *requests[which])
                if status == 200:
                    overlaps.append(_overlap(answer, expected[which]))
                    status = 200 if overlaps[-1] >= SAME else "wrong answer"
                statuses[status] += 1
                if status == 503:
                    await asyncio.sleep(1)  # as Retry-After asks
                number += 1

        async def watch() -> None:
            while time.monotonic() < end and pid:
                memory.append(psutil.Process(pid).memory_info().rss / 1e9)
                await asyncio.sleep(max(seconds / 6, 1))

        await asyncio.gather(watch(), *(one(number) for number in range(clients)))
    print(f"{clients} clients, {seconds} s: {dict(statuses)}; {statuses[200] / seconds:.1f} masks per second")
    print(f"smallest overlap (IoU) with the right mask: {min(overlaps, default=1):.4f}")
    print(f"memory in GB: {' '.join(f'{each:.2f}' for each in memory)}")
    return int(not set(statuses) <= {200, 503})


async def _ask(client: httpx.AsyncClient, image: bytes, expression: str) -> tuple[Any, Any]:
    """Status and content of an answer; for a failed connection the name and the text of the error."""
    try:
        files, data = {"image": ("a.png", image)}, {"expressions": [expression]}
        answer = await client.post("/v1/segment", files=files, data=data)
        return answer.status_code, answer.json()
    except (httpx.TransportError, ValueError) as error:
        return type(error).__name__, str(error)


async def _right(client: httpx.AsyncClient, image: bytes, expression: str) -> dict:
    """The answer while nobody else asks. Raises: UserError."""
    status, answer = await _ask(client, image, expression)
    if status != 200:
        raise UserError(f"{client.base_url} does not answer a single request ({status}: {answer}): check --url")
    return answer


def _overlap(found: dict, right: dict) -> float:
    """IoU of the masks of two answers; 0 if their scores differ by 1e-3 or their words differ."""
    (one,), (other,) = found["results"], right["results"]
    words = [(each["expression"], each["warnings"], each["nothing_fits"]) for each in (one, other)]
    if words[0] != words[1] or abs(one["score"] - other["score"]) >= 1e-3:
        return 0.0
    return 1.0 if one["rle"] == other["rle"] else float(coco.iou([one["rle"]], [other["rle"]], [0])[0, 0])


if __name__ == "__main__":
    raise SystemExit(main())
