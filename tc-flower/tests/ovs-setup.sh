ovs-vsctl set Open_vSwitch . other_config:hw-offload=true other_config:tc-policy=skip_hw
ip link add p1 type veth peer name ha; ip link add p2 type veth peer name hb
ip netns add A; ip netns add B; ip link set dev ha netns A; ip link set dev hb netns B
ip -n A addr add 10.0.0.1/24 dev ha; ip -n B addr add 10.0.0.2/24 dev hb
ip -n A link set dev ha up; ip -n B link set dev hb up; ip link set dev p1 up; ip link set dev p2 up
ip link add u0 type veth peer name u1; ip addr add 172.16.0.1/24 dev u0; ip link set dev u0 up; ip link set dev u1 up
ip neigh add 172.16.0.2 lladdr 02:00:00:00:00:99 dev u0
ovs-vsctl add-br br0 -- add-port br0 p1 -- set Interface p1 ofport_request=1 -- add-port br0 p2 -- set Interface p2 ofport_request=2 -- add-port br0 g0 -- set Interface g0 ofport_request=3 type=geneve options:remote_ip=172.16.0.2 options:key=7
ovs-ofctl -O OpenFlow13 add-meter br0 meter=1,kbps,burst,band=type=drop,rate=100000,burst_size=10000
ip link set dev br0 up
ovs-ofctl -O OpenFlow13 --bundle replace-flows br0 - <<'FLOWS'
priority=1,arp,actions=normal
priority=9,icmp,in_port=1,actions=mod_nw_tos:32,mod_dl_src:02:00:00:00:00:01,output:3,output:2
priority=9,icmp,in_port=2,actions=meter:1,output:1
priority=9,udp,in_port=1,tp_dst=0x1230/0xfff0,actions=set_field:10.0.0.9->ip_dst,set_field:99->udp_dst,dec_ttl,output:2
priority=9,udp,in_port=1,tp_dst=7,actions=push_vlan:0x8100,set_field:4101->vlan_vid,output:2
priority=9,udp,in_port=1,tp_dst=8,actions=drop
priority=9,udp,in_port=1,tp_dst=9,actions=controller,output:2
priority=9,udp,in_port=1,tp_dst=10,actions=output:LOCAL
priority=9,udp,in_port=1,tp_dst=11,actions=check_pkt_larger(200)->NXM_NX_REG0[0],resubmit(,2)
priority=8,tcp,in_port=1,actions=ct(table=1,zone=5,nat)
table=1,tcp,ct_state=+trk+new,actions=ct(commit,zone=5,exec(set_field:0x12->ct_mark)),output:2
table=2,reg0=0x1/0x1,actions=output:2
table=2,reg0=0/0x1,actions=output:LOCAL
FLOWS
