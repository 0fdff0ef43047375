"""The service over HTTP, for programs and for `reco` where `RECO_API` is set: `connect` is all one needs."""

from service.client.client import HttpService, connect
from service.client.runs import HttpRuns

__all__ = ["HttpRuns", "HttpService", "connect"]
