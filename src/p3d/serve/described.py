"""What the OpenAPI document says of requests and of their errors."""

from __future__ import annotations

from typing import Any

STATUSES = {
    400: "The body is damaged or ends early.",
    401: "The token is missing or wrong.",
    403: "The path is not in the folder of this service, or a page of another site asks.",
    404: "There is no such file.",
    408: "The upload takes too long.",
    413: "The file is too large.",
    415: "The body is neither multipart/form-data nor JSON.",
    421: "The service is called by a name that it does not have.",
    422: "The video cannot be read, it exceeds a limit, or a parameter is out of range.",
    429: "Too many uploads are under way; see Retry-After.",
    500: "The network's outputs are not finite, or another fault of the service.",
    502: "The video killed the process that decoded it.",
    503: "Too many requests wait, or the service is stopping; see Retry-After.",
    504: "The answer takes too long.",
    507: "The upload cannot be written to the disk.",
}
VIDEO_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["video"],
                "properties": {"video": {"type": "string", "format": "binary"}},
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["path"],
                "properties": {
                    "path": {
                        "type": "string",
                        "minLength": 1,
                        "description": "A video in the folder of --root.",
                    }
                },
            },
            "example": {"path": "walk.avi"},
        },
    },
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the description of problems with these statuses, for a route."""
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {
        status: {
            "description": STATUSES[status],
            "content": {"application/problem+json": {"schema": schema}},
        }
        for status in statuses
    }
