#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Has Open vSwitch put the megaflows of peer-flows.txt, where it offloads and where it does not, and captures what it made.

    peer.py OUT      as root, in a guest of the lab: cargo xtask lab --share OUT -- /repository/offload-engine/tests/shadow/peer.py /share

Open vSwitch's own filters of the same megaflows are what the translation of shadow mode is compared with. Nothing sends
traffic: the revalidators, which would delete megaflows that nothing asked for, are paused.
"""

import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../../../tc-flower/tests"))
sys.dont_write_bytecode = True
import socket  # noqa: E402
import struct  # noqa: E402

from capture import DATAPATH, FLOW, INGRESS, NETLINK_GENERIC, TC, VPORT, Netlink, filters, generic_dump, write  # noqa: E402

PORTS = """ovs-vsctl add-br br0
ovs-vsctl add-port br0 p1 -- add-port br0 p2 -- add-port br0 p3
ovs-vsctl add-port br0 g0 -- set Interface g0 type=geneve options:remote_ip=flow options:key=flow
ovs-vsctl add-port br0 x0 -- set Interface x0 type=vxlan options:remote_ip=flow options:key=flow"""


def run(command, **more):
    done = subprocess.run(command, shell=isinstance(command, str), capture_output=True, text=True, **more)
    if done.returncode != 0:
        sys.exit(f"{command}: {done.stderr.strip()} {done.stdout.strip()}")
    return done.stdout


def flows():
    for number, line in enumerate(open(os.path.join(HERE, "peer-flows.txt")), 1):
        if line.strip() and not line.startswith("#"):
            name, rest = line.split(": ", 1)
            key, actions = rest.strip().split("; ")
            yield f"{number:08x}-0000-0000-0000-000000000000", name, key, actions


def put_all(directory, settings):
    os.environ["OVS_RUNDIR"] = directory
    run(["ovs.sh", "start", directory, *settings])
    for line in PORTS.splitlines():
        run(line)
    run("ovs-appctl revalidator/pause")
    # Keys may have ports' names, actions their numbers.
    shown = re.findall(r"^  port (\d+): (\S+)", run("ovs-appctl dpctl/show"), re.MULTILINE)
    numbers = {name: number for number, name in shown}
    for ufid, name, key, actions in flows():
        actions = re.sub(r"(?<![\w.:=])(%s)(?![\w.:=])" % "|".join(numbers), lambda name: numbers[name[0]], actions)
        put = ["ovs-appctl", "dpctl/add-flow", f"ufid:{ufid},recirc_id(0),{key}", actions]
        done = subprocess.run(put, capture_output=True, text=True)
        if done.returncode != 0:
            print(f"{name}: {done.stderr.strip()}")


def ports_and_flows(generic):
    header = generic_dump(generic, "ovs_datapath", 3, 2, bytes(4))[0][20:24]
    return generic_dump(generic, "ovs_vport", 3, 1, header), generic_dump(generic, "ovs_flow", 3, 1, header)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = sys.argv[1]
    for name in ("p1", "p2", "p3"):
        run(f"ip link add {name} type veth peer name {name}x; ip link set {name} up; ip link set {name}x up")
    run("ip addr add 172.16.0.1/24 dev p1x")
    for way, settings in [
        ("offloading", ["other_config:hw-offload=true", "other_config:tc-policy=skip_hw"]),
        ("datapath", ["other_config:hw-offload=false"]),
    ]:
        directory = f"/tmp/{way}"
        put_all(directory, settings)
        title = f"{PORTS}\novs-vsctl set Open_vSwitch . {' '.join(settings)}\npeer.py\n"
        netlink, generic = Netlink(), Netlink(NETLINK_GENERIC)
        ports, megaflows = ports_and_flows(generic)
        write(f"{out}/{way}-ports.hex", title + "OVS_VPORT_CMD_GET", ports, VPORT)
        write(f"{out}/{way}-flows.hex", title + "OVS_FLOW_CMD_GET", megaflows, FLOW)
        if way == "offloading":
            found = []
            for name in sorted(os.listdir("/sys/class/net")):
                found += filters(netlink, socket.if_nametoindex(name), INGRESS)
            made = [m for m in found if struct.unpack_from("=I", m, 24)[0]]
            write(f"{out}/{way}-filters.hex", title + "RTM_GETTFILTER", made, TC)
            print(run("grep -aE 'unsupported|not supported|offload' /tmp/offloading/ovs-vswitchd.log | tail -40 || true"))
        run(["ovs.sh", "stop", directory])


if __name__ == "__main__":
    main()
