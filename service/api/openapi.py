"""The OpenAPI page of routes that read raw bytes: no parameter declares their request schemas."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from service.api.bodies import EventBody, FeedbackBody, Limits, rank_body, recommend_body

_REFERENCE = "#/components/schemas/{model}"


def takes(*models: str) -> dict[str, Any]:
    """``openapi_extra`` of a route whose JSON body is one of ``models``."""
    references = [{"$ref": _REFERENCE.format(model=name)} for name in models]
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe(app: FastAPI, limits: Limits) -> None:
    """Make ``app.openapi`` hold the schemas that ``takes`` refers to, with the operator's limits."""
    generate = app.openapi
    rank, recommend = rank_body(limits), recommend_body(limits)

    def openapi() -> dict[str, Any]:
        document = generate()
        _, definitions = models_json_schema(
            [(rank, "validation"), (recommend, "validation"), (FeedbackBody, "validation"), (EventBody, "validation")],
            ref_template=_REFERENCE,
        )
        document.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]
