"""A model as an HTTP service: micro-batches, limits, OpenAPI, Prometheus metrics."""

from skxmc.serving._service import create_app, run_app

__all__ = ["create_app", "run_app"]
