"""Every error the product raises on purpose.

ForecasterError
├── InputError         bad configuration, file or request: say place, value and mend; exit 2, status 4xx
├── SourceError        Prometheus is out of reach or refused a query: the next cycle tries again
├── ModelError         model file missing, damaged or of another format: keep the model in use
├── RegistryError      MLflow is out of reach: keep the model in use
├── StoreError         the store is full, locked, damaged or newer than this release: go on in memory, say so
└── ClusterError       the HPA could not be read or patched: the floor stays until it expires
    └── ConflictError  another field manager owns the field: report it; DESIGN 7 says when a field may be taken over
"""

from __future__ import annotations

from forecaster.reasons import ReasonCode


class ForecasterError(Exception):
    """Root of the errors that the product raises on purpose."""


class InputError(ForecasterError):
    """Bad configuration, file or request. The text names the place, the value and the mend."""


class SourceError(ForecasterError):
    """Prometheus is out of reach or refused a query. `reason` is what the workloads read by it will say."""

    def __init__(self, message: str, reason: ReasonCode = ReasonCode.STALE_DATA) -> None:
        super().__init__(message)
        self.reason = reason


class ModelError(ForecasterError):
    """A model file is missing, damaged or of another format."""


class RegistryError(ForecasterError):
    """MLflow is out of reach."""


class StoreError(ForecasterError):
    """The store is full, locked, damaged, or written by a newer release."""


class ClusterError(ForecasterError):
    """The HPA could not be read or patched."""


class ConflictError(ClusterError):
    """Another field manager owns the field."""
