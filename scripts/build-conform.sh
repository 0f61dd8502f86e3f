#!/usr/bin/env bash
# build-conform.sh [FILE] builds vkmoe-conform as one file to carry to another machine (out/vkmoe-conform by default): cases,
# planted faults and the report's page are in it. It needs nothing there but a C library, glibc 2.34 or newer on Linux, and
# a Vulkan driver with its loader; a C library linked into it could not load those.
set -euo pipefail
cd "$(dirname "$0")/.."
file=${1:-out/vkmoe-conform}
mkdir -p "$(dirname "$file")"
revision=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
git diff --quiet HEAD 2>/dev/null || revision="$revision, modified"
go build -trimpath -tags netgo,osusergo \
	-ldflags "-s -w -X 'github.com/vkmoe/vkmoe/tests/conform/report.Revision=$revision'" -o "$file" ./cmd/vkmoe-conform
