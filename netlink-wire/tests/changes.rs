//! Requests that change NICs, against the bytes that `linux/rtnetlink.h`, `linux/if_link.h` and `linux/devlink.h` ask for.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use netlink_wire::devlink::{self, Handle, PortIndex};
use netlink_wire::genl::FamilyId;
use netlink_wire::link_change::{self, Vf};
use netlink_wire::{Ifindex, MacAddr, Message, MessageWriter, NetnsId, Seq, netns};

const SEQ: Seq = Seq(9);
const MAC: MacAddr = MacAddr([2, 0x11, 0x22, 0x33, 0x44, 0x55]);

/// `struct nlmsghdr` and what follows, in this machine's byte order.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(9_u32.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(body);
    bytes
}

/// `struct nlattr` with its payload, padded to four bytes.
fn attr(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(4 + payload.len()).unwrap().to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// `struct ifinfomsg`.
fn ifinfomsg(ifindex: u32, flags: u32, change: u32) -> Vec<u8> {
    [[0; 4], ifindex.to_ne_bytes(), flags.to_ne_bytes(), change.to_ne_bytes()].concat()
}

fn nested(kind: u16, content: &[u8]) -> Vec<u8> {
    attr(kind | 0x8000, content)
}

#[test]
fn a_link_is_changed_by_rtm_setlink_with_an_ack() {
    let set = |header: Vec<u8>, attrs: &[u8]| message(19, 0x05, &[&header, attrs].concat());
    let quiet = || ifinfomsg(7, 0, 0);
    assert_eq!(link_change::set_up(Ifindex(7), true, SEQ), set(ifinfomsg(7, 1, 1), &[]));
    assert_eq!(link_change::set_up(Ifindex(7), false, SEQ), set(ifinfomsg(7, 0, 1), &[]));
    assert_eq!(link_change::set_mtu(Ifindex(7), 9000, SEQ), set(quiet(), &attr(4, &9000_u32.to_ne_bytes())));
    assert_eq!(link_change::set_address(Ifindex(7), MAC, SEQ), set(quiet(), &attr(1, &MAC.0)));
    assert_eq!(link_change::move_to_fd(Ifindex(7), 5, SEQ), set(quiet(), &attr(28, &5_i32.to_ne_bytes())));
    assert_eq!(
        link_change::move_to_id(Ifindex(7), NetnsId(3), SEQ),
        set(quiet(), &attr(46, &3_i32.to_ne_bytes()))
    );
    let trust = [3_u32.to_ne_bytes(), 1_u32.to_ne_bytes()].concat();
    assert_eq!(
        link_change::set_vf_trust(Ifindex(7), 3, true, SEQ),
        set(quiet(), &nested(22, &nested(1, &attr(9, &trust))))
    );
    let mut mac = [3_u32.to_ne_bytes().as_slice(), &MAC.0].concat();
    mac.resize(36, 0);
    assert_eq!(
        link_change::set_vf_address(Ifindex(7), 3, MAC, SEQ),
        set(quiet(), &nested(22, &nested(1, &attr(1, &mac))))
    );
}

#[test]
fn links_of_another_namespace_are_asked_for_by_its_number() {
    let mask = attr(29, &8_u32.to_ne_bytes());
    let body = [ifinfomsg(0, 0, 0), mask, attr(46, &4_i32.to_ne_bytes())].concat();
    assert_eq!(link_change::dump_in(NetnsId(4), SEQ), message(18, 0x301, &body));
    assert_eq!(
        netns::get_by_fd(6, SEQ),
        message(90, 0x01, &[vec![0; 4], attr(3, &6_i32.to_ne_bytes())].concat())
    );
    assert_eq!(netns::dump(SEQ), message(90, 0x301, &[0; 4]));
    for (number, id) in [(4, Some(NetnsId(4))), (-1, None)] {
        let answer = message(88, 0, &[vec![0; 4], attr(1, &i32::to_ne_bytes(number))].concat());
        assert_eq!(netns::decode(&Message::first(&answer).unwrap()).unwrap(), id);
    }
    let other = message(16, 0, &[0; 16]);
    assert!(netns::decode(&Message::first(&other).unwrap()).is_err());
}

#[test]
fn a_functions_address_and_state_travel_in_a_nest_of_its_port() {
    let (family, handle): (_, Handle) = (FamilyId(21), "pci/0000:03:00.0".parse().unwrap());
    let begin =
        |command: u8| [&[command, 1, 0, 0][..], &attr(1, b"pci\0"), &attr(2, b"0000:03:00.0\0")].concat();
    let port = attr(3, &2_u32.to_ne_bytes());
    assert_eq!(
        devlink::set_function_address(family, &handle, PortIndex(2), MAC, SEQ).unwrap(),
        message(21, 0x05, &[begin(6), port.clone(), nested(145, &attr(1, &MAC.0))].concat())
    );
    assert_eq!(
        devlink::set_function_state(family, &handle, PortIndex(2), true, SEQ).unwrap(),
        message(21, 0x05, &[begin(6), port.clone(), nested(145, &attr(2, &[1]))].concat())
    );
    assert_eq!(
        devlink::delete_port(family, &handle, PortIndex(2), SEQ).unwrap(),
        message(21, 0x05, &[begin(8), port].concat())
    );
    let sf = [
        begin(7),
        attr(77, &7_u16.to_ne_bytes()),
        attr(127, &1_u16.to_ne_bytes()),
        attr(164, &88_u32.to_ne_bytes()),
    ];
    assert_eq!(
        devlink::add_sub_function(family, &handle, 1, 88, SEQ).unwrap(),
        message(21, 0x05, &sf.concat())
    );
    assert_eq!(
        devlink::set_eswitch_inline(family, &handle, devlink::InlineMode::Transport, SEQ).unwrap(),
        message(21, 0x05, &[begin(30), attr(26, &[3])].concat())
    );
    assert_eq!(
        devlink::set_eswitch_encap(family, &handle, true, SEQ).unwrap(),
        message(21, 0x05, &[begin(30), attr(62, &[1])].concat())
    );
}

#[test]
fn what_a_physical_function_knows_of_virtual_ones_is_read() {
    let info = |number: u32, trust: u32| {
        let mut mac = [number.to_ne_bytes().as_slice(), &MAC.0].concat();
        mac.resize(36, 0);
        nested(1, &[attr(1, &mac), attr(9, &[number.to_ne_bytes(), trust.to_ne_bytes()].concat())].concat())
    };
    let list = nested(22, &[info(0, 1), info(1, u32::MAX)].concat());
    let answer = message(16, 0, &[ifinfomsg(7, 0, 0), list].concat());
    let vf = |number, trust| Vf { number, address: Some(MAC), trust };
    assert_eq!(Vf::decode_all(&Message::first(&answer).unwrap()).unwrap(), [vf(0, Some(true)), vf(1, None)]);
    // A payload that is cut short is malformed, not taken for zeros.
    let short = nested(22, &nested(1, &attr(9, &[0; 6])));
    let answer = message(16, 0, &[ifinfomsg(7, 0, 0), short].concat());
    assert!(Vf::decode_all(&Message::first(&answer).unwrap()).is_err());
    let mut asked = MessageWriter::new(18, 0x01, SEQ);
    asked.fixed(&ifinfomsg(7, 0, 0));
    asked.put_u32(29, 0x9);
    assert_eq!(link_change::get_with_vfs(Ifindex(7), SEQ), asked.finish().unwrap());
}
