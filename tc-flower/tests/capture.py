#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the byte captures that the codecs are tested against, from a running kernel. Run as root, in a scratch guest.

    capture.py tc OUT PROGRAM                    filters that tc makes, one file per line of tc-cases.txt
    capture.py ovs TC-OUT WIRE-OUT PROGRAM TITLE filters and megaflows that a running ovs-vswitchd made, links, ports
    capture.py nic TC-OUT WIRE-OUT DEVICE TITLE  filters of a device that has hardware, and its devlink
    capture.py inventory WIRE-OUT                what devlink, ethtool and rtnetlink tell of netdevsim in a bond

A file begins with the command that made the bytes and the kernel's version. Then come the messages as the kernel sent
them, one attribute of a message per line; text after `#` is for the reader.

PROGRAM (`cargo run --example rewrite`) turns every captured filter into the requests that replace, promote and demote
it; the kernel has to accept them, and what it then reports has to describe the same rule. The exit status says whether.
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
        if length < 4:
            break
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
LINK = (16, {18: {2: {}, 5: {}}, 52: {}})
OTHER = (4, {})
DATAPATH = (8, {})
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


class Lines:
    """A program that answers line by line."""

    def __init__(self, *command):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
        )

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        return self.process.stdout.readline().strip()

    def tc(self, *commands):
        """Runs commands in `tc -batch -`; what it says, up to the answer of a last command that always has one."""
        self.process.stdin.write("\n".join([*commands, "qdisc show dev lo", ""]))
        said = []
        while not (line := self.process.stdout.readline()).startswith("qdisc noqueue"):
            if not line:
                sys.exit(f"tc ended: {said}")
            said.append(line.strip())
        return [line for line in said if not line.startswith("Command failed")]


def check_replace(netlink, name, program, filters_of, modes):
    """Replaces every filter by what PROGRAM makes of it, and compares. Whether one failed."""
    failed = False
    for first in filters_of():
        if struct.unpack_from("=I", first, 24)[0] == 0:
            continue
        # struct tcmsg from its interface on: index, handle, parent and info; and the chain, which follows the kind.
        key = lambda message: (message[20:36], chain_of(message))
        verdicts = []
        for mode in modes:
            before = next((m for m in filters_of() if key(m) == key(first)), None)
            if before is None:
                verdicts.append(f"{mode} FAILED: gone")
                break
            request = program.ask(f"{mode} {before.hex()}")
            if request.startswith("error"):
                verdicts.append(f"{mode}: {request}")
                continue
            answer = netlink.ask(bytes.fromhex(request))[-1]
            error = struct.unpack_from("=i", answer, 16)[0]
            after = next((m for m in filters_of() if key(m) == key(first)), b"")
            verdict = program.ask(f"compare {before.hex()} {after.hex()}")
            if error:
                verdict = f"FAILED errno {-error} {answer[20:]!r}"
            verdicts.append(f"{mode} {verdict}")
            failed |= verdict != "same"
        print(f"{name}: {'; '.join(verdicts)}", flush=True)
        print(f"{name}: {program.ask('show ' + first.hex())}", flush=True)
    return failed


def chain_of(message):
    at = 36
    while at + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        if kind == 11:
            return struct.unpack_from("=I", message, at + 4)[0]
        at += (length + 3) & ~3
    return 0


def tc(out, program):
    run("ip link add v0 type veth peer name v1; ip link add v2 type veth peer name v3")
    run("for d in v0 v1 v2 v3; do ip link set $d up; done")
    run("ip link add gnv type geneve external dstport 6081; ip link set gnv up")
    run("ip link add vxl type vxlan external gbp dstport 4789; ip link set vxl up")
    netlink, failed, rewrite = Netlink(), False, Lines(program)
    shell = Lines("stdbuf", "-oL", "tc", "-force", "-batch", "-")
    # A meter as Open vSwitch makes it under tc-policy=skip_hw, and one as it makes it otherwise.
    police = "rate 100mbit burst 100k conform-exceed drop/pipe"
    for said in shell.tc(f"actions add action police index 268435456 {police} skip_hw"):
        print("meter:", said)
    shell.tc(f"actions add action police index 268435457 {police}")
    here = os.path.dirname(os.path.abspath(__file__))
    for line in open(os.path.join(here, "tc-cases.txt")):
        if not line.strip() or line.startswith("#"):
            continue
        name, command = (part.strip() for part in line.split(":", 1))
        words = command.split()
        device = words[words.index("dev") + 1] if "block" not in words else "v0"
        block = "block" in words[:4]
        qdisc = f"tc qdisc add dev {device} {'ingress_block 9 ' if block else ''}clsact"
        for said in shell.tc(qdisc.removeprefix("tc "), command.removeprefix("tc ")):
            print(f"{name}: tc said: {said}")
            failed = True
        parent = 9 if block else 0xFFFFFFF3 if "egress" in words[:6] else INGRESS
        ifindex = -1 if block else socket.if_nametoindex(device)
        dump = lambda: filters(netlink, ifindex, parent)
        full = [m for m in dump() if struct.unpack_from("=I", m, 24)[0] != 0]
        write(f"{out}/{name}.hex", f"{qdisc}\n{command}", full, TC)
        failed |= check_replace(netlink, name, rewrite, dump, ["replace", "promote", "demote", "promote"])
        shell.tc(f"qdisc del dev {device} clsact")
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


# --- Open vSwitch, links and devices with hardware ---------------------------------------------------------------------


def ovs(tc_out, wire_out, program, script):
    """Captures what there is after `script`, which set Open vSwitch up and sent traffic."""
    title = open(script).read().strip() + "\n"
    netlink, generic, rewrite = Netlink(), Netlink(NETLINK_GENERIC), Lines(program)
    number, answer = family(generic, "ovs_flow")
    write(f"{wire_out}/family.hex", "CTRL_CMD_GETFAMILY ovs_flow", [answer], OTHER)
    datapaths = generic_dump(generic, "ovs_datapath", 3, 2, bytes(4))
    write(f"{wire_out}/ovs_datapath.hex", title + "OVS_DP_CMD_GET", datapaths, DATAPATH)
    header = datapaths[0][20:24]
    flows = generic_dump(generic, "ovs_flow", 3, 1, header)
    write(f"{wire_out}/ovs_flow.hex", title + "OVS_FLOW_CMD_GET", flows, FLOW)
    brief = generic_dump(generic, "ovs_flow", 3, 1, header + attr(10, struct.pack("=I", 7)))
    write(f"{wire_out}/ovs_flow-counters.hex", title + "OVS_FLOW_CMD_GET, OVS_UFID_F_OMIT_*", brief, FLOW)
    ports = generic_dump(generic, "ovs_vport", 3, 1, header)
    write(f"{wire_out}/ovs_vport.hex", title + "OVS_VPORT_CMD_GET", ports, VPORT)
    links = netlink.ask(netlink.request(18, DUMP, bytes(16) + attr(29, struct.pack("=I", 8))))
    write(f"{wire_out}/link.hex", title + "RTM_GETLINK", links, LINK)
    number, _ = family(generic, "ethtool")
    ifindex = attr(1, struct.pack("=I", socket.if_nametoindex("p1")))
    body = struct.pack("=BBH", 11, 1, 0) + attr(1 | 0x8000, ifindex)
    features = generic.ask(generic.request(number, ACK, body))[:1]
    write(f"{wire_out}/ethtool.hex", "ETHTOOL_MSG_FEATURES_GET p1", features, FEATURES)
    terse = filters(netlink, socket.if_nametoindex("p1"), terse=True)
    write(f"{tc_out}/ovs-terse.hex", title + "terse dump of p1", terse, TC)
    found, failed = [], False
    for name in sorted(os.listdir("/sys/class/net")):
        for parent in (INGRESS, 0xFFFFFFF3):
            found += filters(netlink, socket.if_nametoindex(name), parent)
    write(f"{tc_out}/ovs.hex", title, [m for m in found if struct.unpack_from("=I", m, 24)[0]], TC)
    for name in sorted(os.listdir("/sys/class/net")):
        dump = lambda: filters(netlink, socket.if_nametoindex(name))
        failed |= check_replace(netlink, f"ovs {name}", rewrite, dump, ["promote", "demote", "promote"])
    return failed


def nic(tc_out, wire_out, device, script):
    """Captures the filters of a device that has hardware, and what devlink says of it."""
    title = open(script).read().strip() + "\n"
    netlink, generic = Netlink(), Netlink(NETLINK_GENERIC)
    full = [m for m in filters(netlink, socket.if_nametoindex(device)) if struct.unpack_from("=I", m, 24)[0]]
    write(f"{tc_out}/in-hw.hex", title + f"full dump of {device}", full, TC)
    terse = filters(netlink, socket.if_nametoindex(device), terse=True)
    write(f"{tc_out}/in-hw-terse.hex", title + f"terse dump of {device}", terse, TC)
    devices = generic_dump(generic, "devlink", 1, 1)
    ports = generic_dump(generic, "devlink", 5, 1)
    number, _ = family(generic, "devlink")
    at, handle = 20, b""
    while at < len(devices[0]):
        length, kind = struct.unpack_from("=HH", devices[0], at)
        end = at + ((length + 3) & ~3)
        handle += devices[0][at:end] if kind in (1, 2) else b""
        at = end
    body = struct.pack("=BBH", 29, 1, 0) + handle
    eswitch = generic.ask(generic.request(number, ACK, body))[:1]
    shape = (4, {145: {}})
    write(f"{wire_out}/devlink.hex", title + "DEVLINK_CMD_GET, _PORT_GET, _ESWITCH_GET", devices + ports + eswitch, shape)
    links = netlink.ask(netlink.request(18, DUMP, bytes(16) + attr(29, struct.pack("=I", 8))))
    write(f"{wire_out}/link-nic.hex", title + "RTM_GETLINK", links, LINK)
    # What the driver refuses and what it takes with a remark: the answer, with the reason.
    for mark, flags in [("refused", 2), ("accepted", 16)]:
        options = attr(8, struct.pack(">H", 0x0800)) + attr(9, b"\x06") + attr(87, struct.pack(">H", 1))
        options += attr(88, struct.pack(">H", 9)) + attr(22, struct.pack("=I", flags))
        ifindex = socket.if_nametoindex(device)
        body = struct.pack("=BxxxiIII", 0, ifindex, 0, INGRESS, (99 << 16) | socket.htons(0x0800))
        answer = netlink.ask(netlink.request(44, ACK | 0x600, body + text(1, "flower") + attr(2, options)))
        write(f"{tc_out}/nic-{mark}.hex", title + f"RTM_NEWTFILTER of a port range, TCA_FLOWER_FLAGS {flags}", answer, TC)


INVENTORY = """modprobe netdevsim; echo "7 2" > /sys/bus/netdevsim/new_device; udevadm settle
n=1; for d in $(ls /sys/bus/netdevsim/devices/netdevsim7/net); do ip link set $d name nsim$n; n=$((n+1)); done
echo 2 > /sys/bus/netdevsim/devices/netdevsim7/sriov_numvfs
devlink dev eswitch set netdevsim/netdevsim7 mode switchdev
devlink resource set netdevsim/netdevsim7 path IPv4/fib size 64
ip link add bond7 type bond mode active-backup
ip link set nsim1 master bond7; ip link set nsim2 master bond7
ip link set bond7 up; ip link set bond7 type bond active_slave nsim2"""


def inventory(out):
    """Captures what says which devices there are and how they are, and the notifications of changes."""
    for line in INVENTORY.splitlines():
        run(line)
    netlink, generic = Netlink(), Netlink(NETLINK_GENERIC)
    devlink, _ = family(generic, "devlink")
    ethtool, _ = family(generic, "ethtool")
    title, handle = INVENTORY + "\n", text(1, "netdevsim") + text(2, "netdevsim7")
    group = Netlink(NETLINK_GENERIC, groups=[group_of(generic, "devlink", "config"), group_of(generic, "ethtool", "monitor")])
    ask = lambda number, command, body, flags=ACK: generic.ask(
        generic.request(number, flags, struct.pack("=BBH", command, 1, 0) + body)
    )
    ports, eswitch = ask(devlink, 5, b"", DUMP)[:-1], ask(devlink, 29, handle)[:1]
    write(f"{out}/devlink-ports.hex", title + "DEVLINK_CMD_PORT_GET, _ESWITCH_GET", ports + eswitch, (4, {145: {}}))
    resources = [m for m in ask(devlink, 36, handle) if kind_of(m) not in (DONE, ERROR)]
    generic.socket.recv(1 << 20)  # DONE is followed by the ack
    nest = {64: {63: {64: {63: {64: {}}}}}}
    write(f"{out}/devlink-resources.hex", title + "DEVLINK_CMD_RESOURCE_DUMP", resources, (4, {63: nest}))
    versions = {n: {} for n in (100, 101, 102)}
    write(f"{out}/devlink-info.hex", title + "DEVLINK_CMD_INFO_GET", ask(devlink, 51, b"", DUMP)[:-1], (4, versions))
    broken = "echo broken > /sys/kernel/debug/netdevsim/netdevsim7/health/break_health"
    run(broken)
    told = [m for m in group.pending() if kind_of(m) == devlink]
    write(f"{out}/devlink-health-told.hex", title + broken, told, (4, {114: {}}))
    health = ask(devlink, 52, b"", DUMP)[:-1]
    write(f"{out}/devlink-health.hex", title + broken + "\nDEVLINK_CMD_HEALTH_REPORTER_GET", health, (4, {114: {}}))
    names = ask(ethtool, 1, attr(1 | 0x8000, b"") + attr(2 | 0x8000, attr(1 | 0x8000, attr(1, struct.pack("=I", 4)))))[:1]
    write(f"{out}/ethtool-names.hex", "ETHTOOL_MSG_STRSET_GET of ETH_SS_FEATURES", names, (4, {2: {1: {3: {1: {}}}}}))
    bits = (4, {1: {}, 2: {}, 3: {}, 4: {}, 5: {}})
    found = ask(ethtool, 11, attr(1 | 0x8000, attr(3, struct.pack("=I", 1))), DUMP)[:-1]
    write(f"{out}/ethtool-bits.hex", title + "ETHTOOL_MSG_FEATURES_GET, ETHTOOL_FLAG_COMPACT_BITSETS", found, bits)
    on = "ethtool -K nsim1 hw-tc-offload on"
    run(on)
    told = [m for m in group.pending() if kind_of(m) == ethtool]
    write(f"{out}/ethtool-told.hex", title + on, told, bits)
    links = netlink.ask(netlink.request(18, DUMP, bytes(16) + attr(29, struct.pack("=I", 8))))
    write(f"{out}/link-bond.hex", title + "RTM_GETLINK", links, LINK)


def group_of(generic, name, wanted):
    """The number of a family's multicast group."""
    _, answer = family(generic, name)
    found = answer.find(wanted.encode() + b"\0")
    # CTRL_ATTR_MCAST_GRP_ID is in front of CTRL_ATTR_MCAST_GRP_NAME.
    return struct.unpack_from("=I", answer, found - 8)[0]


def main():
    match sys.argv[1:]:
        case ["tc", out, program]:
            sys.exit(tc(out, program))
        case ["ovs", tc_out, wire_out, program, script]:
            sys.exit(ovs(tc_out, wire_out, program, script))
        case ["nic", tc_out, wire_out, device, script]:
            nic(tc_out, wire_out, device, script)
        case ["inventory", out]:
            inventory(out)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
