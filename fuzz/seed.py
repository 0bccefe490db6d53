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
    "devlink": [WIRE / "devlink*.hex", WIRE / "ethtool-*.hex"],
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

# Texts that a server sends and values that it holds. An odd first byte (the tab) puts a stream after the replies.
ROW = "00000000-0000-0000-0000-000000000001"
UPDATE = '\t{"method":"update3","params":["d","%s",{"T":{"%s":%%s}}],"id":null}' % (ROW, ROW)
TEXTS = {
    "ovsdb_stream": [
        UPDATE % '{"modify":{"tags":["set",["x","z"]],"name":"b"}}',
        UPDATE % '{"delete":null}',
        UPDATE % '{"insert":{"options":["map",[["a",1]]],"friends":["uuid","%s"],"maybe":5,"ratio":1.5}}' % ROW,
        '\t{"id":"echo","method":"echo","params":[]}{"method":"locked","params":["l"],"id":null}',
        ' {"id":1,"error":null,"result":{"name":"d","tables":{}}}',
        ' {"id":1,"error":"unknown method","result":null}',
    ],
    "ovsdb_datum": [
        '"integer"\n5',
        '"real"\n1.5e3',
        '"string"\n"a\\u00e9"',
        '{"key":"string","value":"integer","min":0,"max":"unlimited"}\n["map",[["a",1]]]',
        '{"key":"uuid","min":0,"max":"unlimited"}\n["set",[["uuid","%s"]]]' % ROW,
    ],
}
for target, texts in TEXTS.items():
    corpus = ROOT / "fuzz/corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        (corpus / f"text-{number}").write_text(text)
    print(f"{target}: {len(texts)} seeds")
