#!/usr/bin/env bash
# Make sure that there is a Chromium for the tests of the report page; installs it with apt-get
# where that is possible. Without one those tests are skipped, except where CI=true.
set -euo pipefail
for name in chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$name" >/dev/null 2>&1; then
        echo "browser: $(command -v "$name")"
        exit 0
    fi
done
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "No Chromium found, and it cannot be installed from here: install chromium or google-chrome" >&2
    echo "to run the tests of the report page." >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get install -y -qq chromium fonts-dejavu-core >/dev/null 2>&1 ||
    { apt-get update -qq && apt-get install -y -qq chromium fonts-dejavu-core >/dev/null; }; }; then
    echo "Chromium could not be installed; the tests of the report page will tell." >&2
fi
