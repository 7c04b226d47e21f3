"""NAME.plan.json for a plan that trtexec built on the device: what nst's runtimes must know of it.

    python3 plan_sidecar.py ENGINE.onnx NAME.plan --library-version 10.3.0.30 --max-size 1080x1920

Needs Python 3.8 and nothing else. The sizes are those that trtexec was given, the version is that of its TensorRT.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

# Field numbers of onnx.proto: ModelProto's metadata_props, StringStringEntryProto's key and value.
METADATA_PROPS, KEY, VALUE = 14, 1, 2
VARINT, EIGHT_BYTES, LENGTH_DELIMITED, FOUR_BYTES = 0, 1, 2, 5  # protobuf's wire types that ONNX uses


def varint(message, at):
    """A number in groups of 7 bits, lowest first, and where it ends."""
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at


def fields(message):
    """(field number, content) of every length-delimited field."""
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        kind = tag & 7
        if kind == LENGTH_DELIMITED:
            length, at = varint(message, at)
            yield tag >> 3, message[at : at + length]
            at += length
        elif kind == VARINT:
            _, at = varint(message, at)
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            at += 8 if kind == EIGHT_BYTES else 4
        else:
            raise ValueError("no ONNX file")


def metadata_of(onnx):
    """The nst.* entries of an engine."""
    entries = {}
    try:
        for field, content in fields(memoryview(onnx.read_bytes())):
            if field == METADATA_PROPS:
                entry = {number: bytes(text).decode() for number, text in fields(content)}
                if entry.get(KEY, "").startswith("nst."):
                    entries[entry[KEY]] = entry.get(VALUE, "")
    except (IndexError, ValueError):
        entries = {}
    if not entries:
        sys.exit(f"plan_sidecar: error: {onnx} is not an nst engine. Give the ONNX file that the plan was built from")
    return entries


def size(text):
    try:
        height, width = (int(side) for side in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} given, expected HxW, such as 1080x1920") from None
    return [height, width]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onnx", type=Path, metavar="ENGINE.onnx", help="what the plan was built from")
    parser.add_argument("plan", type=Path, metavar="NAME.plan")
    parser.add_argument("--library-version", required=True, help="of TensorRT, with all its four numbers")
    parser.add_argument("--flavor", choices=("tensorrt", "rtx"), default="tensorrt")
    parser.add_argument("--min-size", type=size, default=[8, 8], metavar="HxW", help="default: 8x8")
    parser.add_argument("--opt-size", type=size, metavar="HxW", help="default: the largest")
    parser.add_argument("--max-size", type=size, required=True, metavar="HxW")
    parser.add_argument("--max-batch", type=int, default=1, metavar="N", help="pictures at once (default: 1)")
    arguments = parser.parse_args()
    for path in (arguments.onnx, arguments.plan):
        if not path.is_file():
            sys.exit(f"plan_sidecar: error: No file at {path}. Check the path")
    # A plan's parity was not measured; that of the ONNX engine is another's.
    sidecar = {
        **metadata_of(arguments.onnx),
        "nst.parity": "",
        "plan_sha256": hashlib.sha256(arguments.plan.read_bytes()).hexdigest(),
        "flavor": arguments.flavor,
        "library_version": arguments.library_version,
        "gpu_name": None,
        "compute_capabilities": [],
        "profile_min": [1, *arguments.min_size],
        "profile_opt": [arguments.max_batch, *(arguments.opt_size or arguments.max_size)],
        "profile_max": [arguments.max_batch, *arguments.max_size],
        "portable": False,
        "weights_stripped": False,
        "build_seconds": 0.0,
    }
    target = arguments.plan.with_name(arguments.plan.name + ".json")
    target.write_text(json.dumps(sidecar, indent=2) + "\n", encoding="utf-8")
    print(target)


if __name__ == "__main__":
    main()
