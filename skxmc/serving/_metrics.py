"""Counters of the service in the text format of Prometheus."""

import bisect

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Counts of values up to each bound, their sum and number."""

    def __init__(self, bounds):
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value):
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name, labels=""):
        """The lines of one histogram; ``labels`` such as ``path="/predict"``."""
        comma = "," if labels else ""
        n = 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            n += count
            yield f'{name}_bucket{{{labels}{comma}le="{bound}"}} {n}'
        suffix = f"{{{labels}}}" if labels else ""
        yield f"{name}_sum{suffix} {self.total:.9g}"
        yield f"{name}_count{suffix} {n}"


class Metrics:
    """What the service counts. Only the event loop writes."""

    def __init__(self, paths, info):
        self._paths = frozenset(paths)
        self._info = info
        self.requests = {}
        self.seconds = {path: Histogram(_SECONDS) for path in paths}
        self.batch_rows = Histogram(_ROWS)
        self.batch_seconds = Histogram(_SECONDS)
        self.n_rows = 0

    def request(self, path, status, seconds):
        """Count a request; paths that there are not count as one."""
        if path in self._paths:
            self.seconds[path].add(seconds)
        else:
            path = "other"
        self.requests[path, status] = self.requests.get((path, status), 0) + 1

    def batch(self, n_rows, seconds):
        """Count a batch."""
        self.n_rows += n_rows
        self.batch_rows.add(n_rows)
        self.batch_seconds.add(seconds)

    def text(self, n_waiting):
        """The page."""
        info = ",".join(f'{name}="{_escaped(value)}"' for name, value in self._info.items())
        lines = [
            *_head("skxmc_model_info", "gauge", "The model that is served."),
            f"skxmc_model_info{{{info}}} 1",
            *_head("skxmc_requests_total", "counter", "Requests answered, by path and status."),
            *(
                f'skxmc_requests_total{{path="{path}",status="{status}"}} {n}'
                for (path, status), n in sorted(self.requests.items())
            ),
            *_head("skxmc_request_seconds", "histogram", "Time from request to answer."),
            *(
                line
                for path, histogram in self.seconds.items()
                for line in histogram.lines("skxmc_request_seconds", f'path="{path}"')
            ),
            *_head("skxmc_rows_total", "counter", "Rows computed."),
            f"skxmc_rows_total {self.n_rows}",
            *_head("skxmc_batch_rows", "histogram", "Rows computed together."),
            *self.batch_rows.lines("skxmc_batch_rows"),
            *_head("skxmc_batch_seconds", "histogram", "Time to compute a batch."),
            *self.batch_seconds.lines("skxmc_batch_seconds"),
            *_head("skxmc_queue_rows", "gauge", "Rows that wait."),
            f"skxmc_queue_rows {n_waiting}",
        ]
        return "\n".join(lines) + "\n"


def _head(name, kind, text):
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _escaped(value):
    return str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
