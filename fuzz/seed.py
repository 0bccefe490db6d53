#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fills fuzz/corpus with the byte captures of the codecs, one file per message, for the targets that read them."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
TC, WIRE = ROOT / "tc-flower/tests/captures", ROOT / "netlink-wire/tests/captures"
SEEDS = {
    "tc_filter": [TC / "*.hex"],
    "ovs_flow": [WIRE / "ovs_flow*.hex"],
    "link": [WIRE / "link*.hex"],
    "devlink": [WIRE / "devlink*.hex"],
    "netlink_message": [WIRE / "*.hex", TC / "refused.hex", TC / "no-such-filter.hex", TC / "nic-*.hex"],
}


def messages(path):
    """The messages of a capture: hexadecimal digits, empty lines between messages, text after `#`."""
    current = ""
    for line in path.read_text().splitlines() + [""]:
        if line.strip():
            current += "".join(line.split("#")[0].split())
        elif current:
            yield bytes.fromhex(current)
            current = ""


for target, patterns in SEEDS.items():
    corpus = ROOT / "fuzz/corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    count = 0
    for pattern in patterns:
        for path in sorted(pattern.parent.glob(pattern.name)):
            for number, message in enumerate(messages(path)):
                (corpus / f"{path.stem}-{number}").write_bytes(message)
                count += 1
    print(f"{target}: {count} seeds")
