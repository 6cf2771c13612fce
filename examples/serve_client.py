"""Ask a service of `p3d serve` for the classes and the segments of a video.

    python examples/serve_client.py walk.avi
    python examples/serve_client.py walk.avi --url http://server:8000 --token-file token

It needs httpx: pip install httpx.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import httpx


def send(client: httpx.Client, route: str, video: Path, **query: Any) -> dict[str, Any]:
    """Upload a video to a route and return the answer; wait while the service is busy."""
    while True:
        with video.open("rb") as file:
            response = client.post(route, params=query, files={"video": (video.name, file)})
        if response.status_code not in (429, 503):
            return read(response)
        time.sleep(float(response.headers.get("Retry-After", 1)))


def read(response: httpx.Response) -> dict[str, Any]:
    """Return the answer; end the program with the line of the service if it is an error."""
    answer: dict[str, Any] = response.json()
    if response.is_error:
        sys.exit(f"{response.status_code}: {answer['detail']}")
    return answer


def main() -> None:
    """Print the classes of a video, and then its segments."""
    parser = argparse.ArgumentParser(description="Ask a service of p3d serve about a video.")
    parser.add_argument("video", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--token-file", type=Path)
    options = parser.parse_args()
    headers = {}
    if options.token_file:
        headers["Authorization"] = f"Bearer {options.token_file.read_text().strip()}"
    with httpx.Client(base_url=options.url, headers=headers, timeout=120) as client:
        for found in send(client, "/v1/predict", options.video, top=3)["top"]:
            print(f"{found['score']:6.1%}  {found['class']}")
        job = send(client, "/v1/timeline", options.video)
        while job["state"] in ("waiting", "running"):
            time.sleep(0.5)
            job = read(client.get(f"/v1/timeline/{job['id']}"))
        if job["state"] != "done":
            sys.exit(job.get("problem", {}).get("detail", job["state"]))
        for segment in job["timeline"]["segments"]:
            print(f"{segment['start']:7.2f} to {segment['end']:7.2f} s  {segment['class']}")


if __name__ == "__main__":
    main()
