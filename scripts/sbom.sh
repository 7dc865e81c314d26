#!/usr/bin/env bash
# Writes the software bill of materials (CycloneDX, JSON) of a Python environment.
#
#     scripts/sbom.sh .venv/bin/python dist/sbom.cdx.json
#
# The tool that makes it lives in an environment of its own: it is not part of what is listed.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$1" -m venv "$scratch/tool"
"$scratch/tool/bin/pip" install --quiet cyclonedx-bom==7.5.0
"$scratch/tool/bin/cyclonedx-py" environment --output-reproducible --mc-type library -o "$2" "$1"
"$scratch/tool/bin/python" - "$2" <<'END'
import json, sys
parts = json.load(open(sys.argv[1]))["components"]
assert all(part.get("version") for part in parts)
print(f"{sys.argv[1]}: {len(parts)} components with their versions")
END
