"""Answers that are not 200: Status objects with the words, reasons and causes of the real API server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.apiserver.fields import FieldConflict, path_text

STALE = "the object has been modified; please apply your changes to the latest version and try again"


class ApiError(Exception):
    """An answer of the API that is no success."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.headers = headers or {}
        self.body: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": metadata or {}}
        self.body |= {"status": "Failure", "message": message}
        if reason:
            self.body["reason"] = reason
        if details is not None:
            self.body["details"] = details
        self.body["code"] = code


@dataclass(frozen=True)
class Named:
    """What an error speaks of."""

    group: str
    resource: str
    kind: str
    name: str = ""

    @property
    def title(self) -> str:
        """`leases.coordination.k8s.io`"""
        return f"{self.resource}.{self.group}" if self.group else self.resource

    @property
    def details(self) -> dict[str, Any]:
        found = {"name": self.name, "group": self.group, "kind": self.resource}
        return {key: value for key, value in found.items() if value}


@dataclass(frozen=True)
class Problem:
    """One field that is invalid. `twice`: how often the real server lists it among the causes."""

    reason: str
    field: str
    message: str
    times: int = 1


def required(field: str, text: str = "") -> Problem:
    return Problem("FieldValueRequired", field, "Required value" + (f": {text}" if text else ""))


def invalid_value(field: str, value: str, text: str, times: int = 1) -> Problem:
    return Problem("FieldValueInvalid", field, f"Invalid value: {value}: {text}", times)


def forbidden_value(field: str, text: str) -> Problem:
    return Problem("FieldValueForbidden", field, f"Forbidden: {text}")


def too_long(field: str, limit: int, times: int = 1) -> Problem:
    return Problem("FieldValueTooLong", field, f"Too long: may not be more than {limit} bytes", times)


def invalid(title: str, details: dict[str, Any], problems: Sequence[Problem]) -> ApiError:
    """422. `title`: `Lease.coordination.k8s.io "name"`."""
    texts = list(dict.fromkeys(f"{one.field}: {one.message}" for one in problems))
    text = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    causes = [
        {"reason": one.reason, "message": one.message, "field": one.field} for one in problems for _ in range(one.times)
    ]
    return ApiError(422, "Invalid", f"{title} is invalid: {text}", {**details, "causes": causes})


def invalid_options(kind: str, *problems: Problem) -> ApiError:
    return invalid(f'{kind}.meta.k8s.io ""', {"group": "meta.k8s.io", "kind": kind}, problems)


def not_found(what: Named) -> ApiError:
    return ApiError(404, "NotFound", f'{what.title} "{what.name}" not found', what.details)


def no_such_resource() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource", {})


def exists(what: Named) -> ApiError:
    return ApiError(409, "AlreadyExists", f'{what.title} "{what.name}" already exists', what.details)


def conflict(what: Named, text: str = STALE) -> ApiError:
    return ApiError(
        409, "Conflict", f'Operation cannot be fulfilled on {what.title} "{what.name}": {text}', what.details
    )


def bad_request(text: str) -> ApiError:
    return ApiError(400, "BadRequest", text)


def internal(text: str) -> ApiError:
    return ApiError(500, "", text)


def rejected() -> ApiError:
    """A JSON patch that cannot be carried out: a test that fails, a path that is not there."""
    return ApiError(422, "Invalid", "the server rejected our request due to an error in our request", {})


def field_conflict(error: FieldConflict) -> ApiError:
    found = [(who, path_text(path)) for who, path in error.conflicts]
    if len(found) == 1:
        text = f"conflict with {found[0][0]}: {found[0][1]}"
    else:
        rows: dict[str, list[str]] = {}
        for who, path in sorted(found):
            rows.setdefault(who, []).append(path)
        text = "\n".join(
            f"conflicts with {who}:" + "".join(f"\n- {path}" for path in paths) for who, paths in rows.items()
        )
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": path} for who, path in found
    ]
    plural = "" if len(found) == 1 else "s"
    message = f"Apply failed with {len(found)} conflict{plural}: {text}"
    return ApiError(409, "Conflict", message, {"causes": causes})


def forbidden(user: str, verb: str, what: Named, subresource: str, namespace: str) -> ApiError:
    name = f' "{what.name}"' if what.name else ""
    resource = f"{what.resource}/{subresource}" if subresource else what.resource
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    text = f'{what.title}{name} is forbidden: User "{user}" cannot {verb} resource "{resource}" '
    return ApiError(403, "Forbidden", text + f'in API group "{what.group}" {where}', what.details)


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def expired(text: str, metadata: dict[str, Any] | None = None) -> ApiError:
    return ApiError(410, "Expired", text, metadata=metadata)
