"""What the OpenAPI document says besides what the types of the routes say."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body

from service.api.messages import Problem
from service.contract.messages import Submission

EVENT_STREAM = "text/event-stream"


_SPEC = """\
name: photos
data: {train: s3://datasets/photos/train, image_size: 224}
encoder: {name: resnet50}
"""
SUBMISSION = Annotated[
    Submission,
    Body(
        openapi_examples={
            "run": {"summary": "A run", "value": {"spec": _SPEC}},
            "sweep": {
                "summary": "A sweep over the method's weights and temperatures",
                "value": {"kind": "sweep", "spec": "name: photos\nbase: base.yaml\ntrials: 12\n", "base": _SPEC},
            },
            "changed": {
                "summary": "With options set, and an id",
                "value": {"spec": _SPEC, "overrides": ["train.epochs=100"], "run_id": "photos-100"},
            },
        }
    ),
]
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A list, or with `Accept: text/event-stream` a stream.",
        "content": {
            EVENT_STREAM: {
                "schema": {"type": "string"},
                "example": 'id: 3\nevent: event\ndata: {"number":3,"kind":"running","words":"…"}\n\n',
            }
        },
    }
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": words, "model": Problem}
    for status, words in (
        ("4XX", "Why it was not carried out, and what to do next."),
        ("5XX", "Something failed that is not the client's fault; with `Retry-After` it is worth asking again."),
    )
}
DESCRIPTION = """\
Pretraining of image encoders as a service: submit a spec, watch it, get an encoder or an honest reason.

Every request brings a token: `Authorization: Bearer TOKEN`. What its role is not enough for is answered 403, and runs
of other projects are answered as if they were not there. Errors are `application/problem+json`; `code` is for
programs, `hint` says what to do next.
"""
