"""The tests of this folder run only where the marker ``robustness`` is asked for."""


def pytest_configure(config):
    """Register the marker."""
    config.addinivalue_line("markers", "robustness: kills, threads, memory, any data; long")


def pytest_collection_modifyitems(config, items):
    """Leave them out of runs for others."""
    if "robustness" not in (config.option.markexpr or ""):
        dropped = [item for item in items if item.get_closest_marker("robustness")]
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]
