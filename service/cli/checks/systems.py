"""Checks of the systems a run talks to: Ray and MLflow."""

from __future__ import annotations

import os
import re
from importlib import metadata

from jobs.tracking.client import shown
from jobs.tracking.health import trouble
from jobs.tracking.server import server_status
from service.cli.checks.finding import Finding
from service.cli.checks.reach import CONNECT_SECONDS, ask, get, refusal
from service.cli.home import home


def ray() -> list[Finding]:
    """The Ray cluster that RAY_ADDRESS names, by a real connection."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    if not address or address == "local":
        return [Finding("✓", "Ray", "no RAY_ADDRESS: a run starts a local cluster")]
    advice = "See whether the cluster is up (`ray status` on its head), or unset RAY_ADDRESS to run locally."
    if address.startswith(("http://", "https://")):
        answer, reason = get(f"{address.rstrip('/')}/api/version")
        text = f"the Jobs API at {shown(address)}"
        if answer is None:
            return [Finding("✗", "Ray", f"{text}: {reason}", advice)]
        advice = "A run connects to the cluster itself: give RAY_ADDRESS as host:6379, or `auto` on the head."
        return [Finding("!", "Ray", f"{text} answers", advice)]
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        refused = refusal(host.strip("[]"), int(port))
        if refused:
            return [Finding("✗", "Ray", f"{address} cannot be reached: {refused}", advice)]
    report = ask("ray", address)
    if "InvalidAuthToken" in report.get("log", ""):
        advice = "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token."
        return [Finding("✗", "Ray", f"{address} asks for a token, and got none or a wrong one", advice)]
    if "error" in report:
        return [Finding("✗", "Ray", f"{address}: {report['error']}", advice)]
    offer = f"{report['nodes']} nodes, {report['cpus']:g} CPUs, {report['gpus']:g} GPUs"
    return [Finding("✓", "Ray", f"{address}: {offer}, version {report['version']}")]


def mlflow() -> list[Finding]:
    """The MLflow server that MLFLOW_TRACKING_URI names, or the local one."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        status = server_status(home())
        if status.running:
            return [Finding("✓", "MLflow", f"local server at {status.uri}")]
        text = f"no MLFLOW_TRACKING_URI: a local server is started, with its files in {status.folder}"
        return [Finding("✓", "MLflow", text)]
    if not uri.startswith(("http://", "https://")):
        return [Finding("!", "MLflow", f"{shown(uri)} is no server and is not asked", "Runs use it as it stands.")]
    wrong = trouble(uri, timeout=CONNECT_SECONDS)
    if wrong:
        advice = "Start that server, mend MLFLOW_TRACKING_URI, or unset it to get a local one."
        return [Finding("✗", "MLflow", f"{shown(uri)} cannot be used: {wrong}", advice)]
    version, reason = get(f"{uri.rstrip('/')}/version")
    if version is None and reason in ("HTTP 401", "HTTP 403"):
        if "@" in uri or {"MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME"} & os.environ.keys():
            return [Finding("✓", "MLflow", f"{shown(uri)} answers and asks for a login, which is set")]
        advice = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
        return [Finding("!", "MLflow", f"{shown(uri)} answers and asks for a login", advice)]
    if version is None or not re.fullmatch(r"\d+\.\d+\.\S+", version):
        return [Finding("!", "MLflow", f"{shown(uri)} answers, but names no version", "Is it an MLflow server?")]
    ours = metadata.version("mlflow")
    if version.split(".")[0] != ours.split(".")[0]:
        advice = f"Client {ours} and server differ in the first number: upgrade the older."
        return [Finding("!", "MLflow", f"{shown(uri)} answers, version {version}", advice)]
    return [Finding("✓", "MLflow", f"{shown(uri)} answers, version {version}")]
