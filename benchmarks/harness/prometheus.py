"""A real Prometheus and a real Alertmanager, for as long as a test or a measurement takes."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

__all__ = ["Alertmanager", "Prometheus", "free_port"]

READY_SECONDS = 30.0


class _Server:
    """A program that serves HTTP on a free port of the loopback interface; its files and its log are in `directory`."""

    def __init__(self, name: str, directory: Path, ready: str, *command: str) -> None:
        self.name = name
        self._log = directory / f"{name}.log"
        self._ready = ready
        for _ in range(5):  # another process may take the port before the server does
            self.address = f"127.0.0.1:{free_port()}"
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [*command, f"--web.listen-address={self.address}"],
                    cwd=directory,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            self._client = httpx.Client(base_url=f"http://{self.address}", trust_env=False, timeout=10)
            if self._answers():
                return
            self.stop()
        raise RuntimeError(f"{name} does not start: {self.log()[-2000:]}")

    def _answers(self) -> bool:
        give_up = time.monotonic() + READY_SECONDS
        while self._process.poll() is None and time.monotonic() < give_up:
            try:
                if self._client.get(self._ready).status_code == 200:
                    return True
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        return False

    def log(self) -> str:
        """What the program has logged."""
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        """End the program."""
        self._client.close()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Alertmanager(_Server):
    """An Alertmanager that sends each change of an alert to a webhook, a second later at the most."""

    def __init__(self, program: str, directory: Path, webhook: str) -> None:
        config = {
            "route": {
                "receiver": "webhook",
                "group_by": ["..."],  # each alert by itself
                "group_wait": "1s",
                "group_interval": "1s",
                "repeat_interval": "1h",
            },
            "receivers": [{"name": "webhook", "webhook_configs": [{"url": webhook, "send_resolved": True}]}],
        }
        file = directory / "alertmanager.yaml"
        file.write_text(json.dumps(config))  # JSON is YAML
        super().__init__(
            "alertmanager",
            directory,
            "/-/ready",
            *(program, f"--config.file={file}", f"--storage.path={directory / 'alertmanager'}"),
            "--cluster.listen-address=",  # alone
        )


class Prometheus(_Server):
    """A Prometheus that scrapes and evaluates its rules once a second.

    Args:
        targets: the addresses of the scraped processes, by their job.
        rules: the files of its rules.
        alertmanager: the address to which it sends alerts.
        flags: further options of its command.
    """

    def __init__(
        self,
        program: str,
        directory: Path,
        targets: Mapping[str, Sequence[str]],
        *,
        rules: Sequence[Path] = (),
        alertmanager: str | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        config: dict[str, Any] = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(file) for file in rules],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": list(addresses)}]}
                for job, addresses in targets.items()
            ],
        }
        if alertmanager is not None:
            config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
        file = directory / "prometheus.yaml"
        file.write_text(json.dumps(config))
        super().__init__(
            "prometheus",
            directory,
            "/-/ready",
            *(program, f"--config.file={file}", f"--storage.tsdb.path={directory / 'prometheus'}"),
            *flags,
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The present result: `{"metric": {label: value}, "value": [time, "number"]}` for each series."""
        found: list[dict[str, Any]] = self._data("/api/v1/query", query=expression)["result"]
        return found

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """The results from `start` to `end` (Unix times), every `step` seconds: with `values` in place of `value`."""
        asked = self._data("/api/v1/query_range", query=expression, start=start, end=end, step=step)
        found: list[dict[str, Any]] = asked["result"]
        return found

    def exemplars(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        """The exemplars of the selected series: `{"seriesLabels": {...}, "exemplars": [{"labels": {...}, ...}]}`. Needs
        the flag `--enable-feature=exemplar-storage`."""
        found: list[dict[str, Any]] = self._data("/api/v1/query_exemplars", query=expression, start=start, end=end)
        return found

    def own_metrics(self) -> str:
        """The metrics of the program itself, as text."""
        return self._client.get("/metrics").raise_for_status().text

    def series(self) -> set[str]:
        """The names of all metrics that it has."""
        names = self._client.get("/api/v1/label/__name__/values").raise_for_status().json()
        return set(names["data"])

    def _data(self, path: str, **parameters: Any) -> Any:
        answer = self._client.get(path, params=parameters).json()
        if answer["status"] != "success":
            raise ValueError(f"{parameters['query']}: {answer['error']}")
        return answer["data"]


def free_port() -> int:
    """A port of the loopback interface on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
