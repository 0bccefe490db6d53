#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the byte captures that the codecs are tested against, from a running kernel. Run as root, in a scratch guest.

    capture.py tc OUT [--replace PROGRAM]   filters that tc makes, one file per line of tc-cases.txt
    capture.py ovs TC-OUT WIRE-OUT          filters and megaflows that a running ovs-vswitchd made, links and ports
    capture.py dump REQUEST                 the answer to a request, in hexadecimal on standard output

A file begins with the command that made the bytes and the kernel's version. Then come the messages as the kernel sent
them, one attribute of a message per line; text after `#` is for the reader.

With --replace, PROGRAM (`cargo run --example rewrite`) turns every captured filter into the request that replaces it;
the kernel has to accept it, and what it then reports has to describe the same rule.
"""

import os
import socket
import struct
import subprocess
import sys

NETLINK_ROUTE, NETLINK_GENERIC = 0, 16
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 1, 10, 11
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
ERROR, DONE = 2, 3
INGRESS = 0xFFFFFFF2
RTNLGRP_TC = 4


class Netlink:
    def __init__(self, protocol=NETLINK_ROUTE, groups=()):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        self.socket.bind((0, 0))
        self.socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        for group in groups:
            self.socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        self.seq = 1

    def request(self, kind, flags, body):
        self.seq += 1
        return struct.pack("=IHHII", 16 + len(body), kind, flags | REQUEST, self.seq, 0) + body

    def ask(self, message):
        """All messages that answer a request, up to the DONE, the ack or the only answer."""
        self.socket.send(message)
        wants_dump = struct.unpack_from("=H", message, 6)[0] & DUMP == DUMP
        wants_ack = struct.unpack_from("=H", message, 6)[0] & ACK
        answers = []
        while True:
            for one in split(self.socket.recv(1 << 20)):
                answers.append(one)
                kind = struct.unpack_from("=H", one, 4)[0]
                if kind in (ERROR, DONE) or not (wants_dump or wants_ack):
                    return answers

    def pending(self):
        """All messages that are there already: notifications."""
        answers = []
        self.socket.setblocking(False)
        try:
            while True:
                answers += split(self.socket.recv(1 << 20))
        except BlockingIOError:
            pass
        self.socket.setblocking(True)
        return answers


def split(data):
    messages = []
    while data:
        length = struct.unpack_from("=I", data)[0]
        messages.append(data[:length])
        data = data[(length + 3) & ~3 :]
    return messages


def kind_of(message):
    return struct.unpack_from("=H", message, 4)[0]


def attr(kind, payload):
    pad = -len(payload) % 4
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(pad)


def text(kind, value):
    return attr(kind, value.encode() + b"\0")


# --- requests -------------------------------------------------------------------------------------------------------


def filters(netlink, ifindex, parent=INGRESS, terse=False, protocol_and_prio=0):
    body = struct.pack("=BxxxiIII", 0, ifindex, 0, parent, protocol_and_prio)
    if terse:
        body += attr(15, struct.pack("=II", 1, 1))
    return [m for m in netlink.ask(netlink.request(46, DUMP, body)) if kind_of(m) != DONE]


def family(generic, name):
    body = struct.pack("=BBH", 3, 1, 0) + text(2, name)
    answer = generic.ask(generic.request(16, ACK, body))[0]
    at = 20
    while at < len(answer):
        length, kind = struct.unpack_from("=HH", answer, at)
        if kind == 1:
            return struct.unpack_from("=H", answer, at + 4)[0], answer
        at += (length + 3) & ~3
    sys.exit(f"no generic netlink family {name}")


def generic_dump(generic, name, command, version, body=b""):
    number, _ = family(generic, name)
    message = generic.request(number, DUMP, struct.pack("=BBH", command, version, 0) + body)
    return [m for m in generic.ask(message) if kind_of(m) != DONE]


# --- files ----------------------------------------------------------------------------------------------------------


def attributes(data, indent, nests):
    """One line per attribute; `nests` maps the numbers of nests to the nests in them, `*` standing for any number."""
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        kind &= 0x3FFF
        payload, end = data[at + 4 : at + length], (at + length + 3) & ~3
        inner = nests.get(kind, nests.get("*"))
        if inner is None or length < 8:
            body = data[at + 4 : end].hex()
            yield f"{'  ' * indent}{data[at : at + 4].hex()} {body}".rstrip() + f"  # {kind}"
        else:
            yield f"{'  ' * indent}{data[at : at + 4].hex()}  # {kind}, nested"
            yield from attributes(payload, indent + 1, inner)
        at = end
    if at < len(data):
        yield "  " * indent + data[at:].hex()


TUNNEL_OPTIONS = {1: {}, 2: {}}
ACTION = {"*": {2: {5: {6: {}}, 11: TUNNEL_OPTIONS}, 4: {}}}
TC = (20, {2: {3: ACTION, 84: TUNNEL_OPTIONS, 85: TUNNEL_OPTIONS}})
KEYS = {1: {1: {}}, 16: {11: {}}}
FLOW = (8, {1: KEYS, 7: KEYS, 2: {3: {}, 11: {}, 12: {6: {}}}})
LINK = (16, {18: {}, 52: {}})
OTHER = (4, {})
VPORT = (8, {4: {}})
FEATURES = (4, {1: {}, **{n: {3: {1: {}}} for n in (2, 3, 4, 5)}})


def write(path, title, messages, shape):
    fixed, nests = shape
    with open(path, "w") as out:
        for line in title.splitlines():
            print("#", line, file=out)
        print("# kernel", os.uname().release, file=out)
        for message in messages:
            print(file=out)
            length, kind, flags, seq, port = struct.unpack_from("=IHHII", message)
            print(f"{message[:16].hex()}  # type {kind} flags {flags:#x} seq {seq} port {port}", file=out)
            if kind in (ERROR, DONE):
                print(message[16:].hex(), file=out)
                continue
            print(message[16 : 16 + fixed].hex(), file=out)
            for line in attributes(message[16 + fixed :], 0, nests):
                print(line, file=out)
    print(f"{path}: {len(messages)} messages")


# --- tc -------------------------------------------------------------------------------------------------------------


def run(command):
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command}: {done.stderr.strip()}")
    return done.stdout


def same_rule(program, before, after):
    done = subprocess.run(
        [program, "compare"], input=f"{before.hex()}\n{after.hex()}\n", capture_output=True, text=True
    )
    return done.stdout.strip() if done.returncode == 0 else f"FAILED {done.stderr.strip()}"


def check_replace(netlink, name, program, filters_of, modes):
    """Replaces every filter by what PROGRAM makes of it, and compares."""
    failed = False
    for before in filters_of():
        if struct.unpack_from("=I", before, 24)[0] == 0:
            continue
        for mode in modes:
            made = subprocess.run([program, mode], input=before.hex(), capture_output=True, text=True)
            if made.returncode != 0:
                print(f"{name}: {mode}: not replaceable: {made.stderr.strip()}")
                continue
            answer = netlink.ask(bytes.fromhex(made.stdout))[-1]
            error = struct.unpack_from("=i", answer, 16)[0]
            key = before[20:36]
            after = [m for m in filters_of() if m[20:36] == key]
            verdict = f"errno {-error} {answer[36:]!r}" if error else same_rule(program, before, after[0])
            print(f"{name}: {mode}: {verdict}")
            failed |= verdict != "same"
    return failed


def tc(out, program):
    run("ip link add v0 type veth peer name v1; ip link add v2 type veth peer name v3")
    run("for d in v0 v1 v2 v3; do ip link set $d up; done")
    run("ip link add gnv type geneve external dstport 6081; ip link set gnv up")
    run("ip link add vxl type vxlan external gbp dstport 4789; ip link set vxl up")
    run("tc actions add action police mtu 1500 index 268435456 rate 100mbit burst 100k conform-exceed drop/pipe skip_hw")
    netlink, failed = Netlink(), False
    here = os.path.dirname(os.path.abspath(__file__))
    for line in open(os.path.join(here, "tc-cases.txt")):
        if not line.strip() or line.startswith("#"):
            continue
        name, command = (part.strip() for part in line.split(":", 1))
        words = command.split()
        device = words[words.index("dev") + 1] if "dev" in words else "v0"
        block = "block" in words
        qdisc = f"tc qdisc add dev {device} {'ingress_block 9 ' if block else ''}clsact"
        run(qdisc)
        made = subprocess.run(command, shell=True, capture_output=True, text=True)
        if made.returncode != 0:
            print(f"{name}: {command}: {made.stderr.strip()}")
            failed = True
        ifindex = 0xFFFFFFFF if block else socket.if_nametoindex(device)
        parent = 9 if block else 0xFFFFFFF3 if "egress" in words[:6] else INGRESS
        signed = ifindex - (1 << 32) if ifindex >> 31 else ifindex
        dump = lambda: filters(netlink, signed, parent)
        full = [m for m in dump() if struct.unpack_from("=I", m, 24)[0] != 0]
        write(f"{out}/{name}.hex", f"{qdisc}\n{command}", full, TC)
        if program:
            failed |= check_replace(netlink, name, program, dump, ["replace", "demote", "replace"])
        run(f"tc qdisc del dev {device} clsact")
    notifications(out)
    return failed


def notifications(out):
    """What a listener and an asker see of the life of a filter."""
    run("tc qdisc add dev v0 clsact")
    group = Netlink(groups=[RTNLGRP_TC])
    match = "protocol ip pref 2 handle 0x1 flower"
    commands = [
        f"tc filter add dev v0 ingress {match} skip_hw ip_proto tcp dst_port 80 action drop",
        f"tc filter replace dev v0 ingress {match} skip_hw ip_proto tcp dst_port 80 action pass",
        "tc filter del dev v0 ingress protocol ip pref 2 handle 0x1 flower",
        f"tc filter add dev v0 ingress {match} skip_hw ip_proto tcp dst_port 80 action drop",
        "tc filter del dev v0 ingress protocol ip pref 2",
        "tc filter add dev v0 ingress chain 7 " + match + " skip_hw ip_proto tcp action drop",
        "tc filter del dev v0 ingress chain 7",
        "tc qdisc del dev v0 clsact",
    ]
    for command in commands:
        run(command)
    write(f"{out}/notifications.hex", "\n".join(commands), group.pending(), TC)
    netlink = Netlink()
    run("tc qdisc add dev v0 clsact")
    ifindex = socket.if_nametoindex("v0")
    run(f"tc filter add dev v0 ingress {match} skip_hw ip_proto tcp dst_port 80 action drop cookie 00112233445566778899aabbccddeeff")
    write(f"{out}/terse.hex", commands[0] + " cookie 00112233445566778899aabbccddeeff\nterse dump", filters(netlink, ifindex, terse=True), TC)
    # A filter for hardware only, on a device that has none: refused, with a reason.
    options = attr(8, struct.pack(">H", 0x0800)) + attr(22, struct.pack("=I", 2))
    body = struct.pack("=BxxxiIII", 0, ifindex, 0, INGRESS, (9 << 16) | socket.htons(0x0800))
    body += text(1, "flower") + attr(2, options)
    answer = netlink.ask(netlink.request(44, ACK | 0x600, body))
    write(f"{out}/refused.hex", "RTM_NEWTFILTER of a flower filter with skip_sw on a veth", answer, TC)
    # Deleting what is not there.
    body = struct.pack("=BxxxiIII", 0, ifindex, 99, INGRESS, (2 << 16) | socket.htons(0x0800)) + text(1, "flower")
    answer = netlink.ask(netlink.request(45, ACK, body))
    write(f"{out}/no-such-filter.hex", "RTM_DELTFILTER of a handle that does not exist", answer, TC)
    run("tc qdisc del dev v0 clsact")


# --- Open vSwitch ---------------------------------------------------------------------------------------------------


def ovs(tc_out, wire_out, script):
    """Captures what there is after `script`, which set Open vSwitch up and sent traffic."""
    title = open(script).read()
    netlink, generic = Netlink(), Netlink(NETLINK_GENERIC)
    found = []
    for name in sorted(os.listdir("/sys/class/net")):
        for parent in (INGRESS, 0xFFFFFFF3):
            found += filters(netlink, socket.if_nametoindex(name), parent)
    write(f"{tc_out}/ovs.hex", title, [m for m in found if struct.unpack_from("=I", m, 24)[0]], TC)
    terse = filters(netlink, socket.if_nametoindex("p1"), terse=True)
    write(f"{tc_out}/ovs-terse.hex", title + "terse dump of p1", terse, TC)
    number, answer = family(generic, "ovs_flow")
    write(f"{wire_out}/family.hex", "CTRL_CMD_GETFAMILY ovs_flow", [answer], OTHER)
    datapaths = generic_dump(generic, "ovs_datapath", 3, 2, bytes(4))
    write(f"{wire_out}/ovs_datapath.hex", title + "OVS_DP_CMD_GET", datapaths, VPORT)
    header = datapaths[0][20:24]
    flows = generic_dump(generic, "ovs_flow", 3, 1, header)
    write(f"{wire_out}/ovs_flow.hex", title + "OVS_FLOW_CMD_GET", flows, FLOW)
    brief = generic_dump(generic, "ovs_flow", 3, 1, header + attr(10, struct.pack("=I", 7)))
    write(f"{wire_out}/ovs_flow-counters.hex", title + "OVS_FLOW_CMD_GET, OVS_UFID_F_OMIT_*", brief, FLOW)
    write(f"{wire_out}/ovs_vport.hex", title + "OVS_VPORT_CMD_GET", generic_dump(generic, "ovs_vport", 3, 1, header), VPORT)
    links = netlink.ask(netlink.request(18, DUMP, bytes(16) + attr(29, struct.pack("=I", 8))))
    write(f"{wire_out}/link.hex", title + "RTM_GETLINK", links, LINK)
    number, _ = family(generic, "ethtool")
    ifindex = attr(1, struct.pack("=I", socket.if_nametoindex("p1")))
    body = struct.pack("=BBH", 11, 1, 0) + attr(1 | 0x8000, ifindex)
    write(f"{wire_out}/ethtool.hex", "ETHTOOL_MSG_FEATURES_GET p1", generic.ask(generic.request(number, ACK, body)), FEATURES)


def main():
    match sys.argv[1:]:
        case ["tc", out]:
            sys.exit(tc(out, None))
        case ["tc", out, "--replace", program]:
            sys.exit(tc(out, program))
        case ["ovs", tc_out, wire_out, script]:
            ovs(tc_out, wire_out, script)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
