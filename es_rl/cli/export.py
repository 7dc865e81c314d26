"""`es-rl export`: a policy as a file for other programs."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer

from es_rl.cli.completion import complete_from
from es_rl.cli.extras import need_extra
from es_rl.cli.policy_source import open_policy, policy_file, read
from es_rl.cli.settings import Checkpoint
from es_rl.option_kinds import Choice
from es_rl.options import ConfigError

__all__ = ["export"]

_EXTENSIONS = {"onnx": (".onnx",), "torch": (".pt", ".pth"), "npz": (".npz",)}


def export(
    run_or_policy: Annotated[
        str, typer.Argument(metavar="RUN_OR_POLICY", help="Folder of a run, or a policy file.")
    ],
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="File to write.")],
    format: Annotated[
        str | None,
        typer.Option(
            metavar="onnx|torch|npz",
            help="Format; default: by the extension of FILE (.onnx, .pt or .pth, .npz).",
            autocompletion=complete_from(_EXTENSIONS),
        ),
    ] = None,
    checkpoint: Checkpoint = "best",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was written as JSON.")
    ] = False,
) -> None:
    """Export a policy: actions equal those of `predict`, clipping and discrete choice included.

    ONNX and torch files compute in float32 and take batches of any size; npz holds the layers as
    plain float64 arrays.
    """
    kind = _format(output, format)
    folder = os.path.dirname(output) or "."
    if not os.path.isdir(folder):
        raise ConfigError(f"-o {output}: there is no folder {folder}")
    path = policy_file(run_or_policy, checkpoint)
    if os.path.exists(output) and os.path.samefile(output, path):
        raise ConfigError(f"-o {output}: is the policy itself; name another file")
    if kind == "onnx":
        need_extra("onnx", "--format onnx")

    from es_rl.export import describe
    from es_rl.export import export as write

    policy = open_policy(run_or_policy, path)
    try:
        write(policy, output, kind)
    except OSError as error:
        raise ConfigError(f"-o {output}: cannot be written ({error.strerror})") from None
    told = describe(policy)
    if as_json:
        print(json.dumps({"file": output, "format": kind, "policy": path, **told}, indent=2))
        return
    shapes = [", ".join(["batch", *map(str, told[key])]) for key in ("input_shape", "action_shape")]
    layers = "-".join(map(str, told["sizes"]))
    clip = ", clipped" if told["clip"] else ""
    print(f"{output}: {kind}, {layers} network{clip}")
    print(f"observation ({shapes[0]}) → action ({shapes[1]})")


def _format(output: str, format: str | None) -> str:
    if format is not None:
        name: str = read("--format", Choice(tuple(_EXTENSIONS)), format)
        return name
    extension = os.path.splitext(output)[1].lower()
    for name, extensions in _EXTENSIONS.items():
        if extension in extensions:
            return name
    known = ", ".join(e for extensions in _EXTENSIONS.values() for e in extensions)
    raise ConfigError(f"-o {output}: its extension is none of {known}; name one, or give --format")
