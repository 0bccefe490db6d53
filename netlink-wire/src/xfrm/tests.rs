use super::*;
use alloc::vec;
use alloc::{format, string::ToString};

/// A key that must not be found anywhere.
const CANARY: [u8; 20] = *b"canary-canary-canary";

/// A structure of so many bytes with parts at offsets of `linux/xfrm.h` on x86-64.
fn structure(length: usize, parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; length];
    for (at, part) in parts {
        bytes[*at..*at + part.len()].copy_from_slice(part);
    }
    bytes
}

fn usersa_info() -> Vec<u8> {
    structure(
        224,
        &[
            // sel: daddr, saddr, dport and mask, family, prefixlen_d, prefixlen_s, proto
            (0, &[192, 0, 2, 2]),
            (16, &[192, 0, 2, 1]),
            (32, &6081_u16.to_be_bytes()),
            (34, &[0xff, 0xff]),
            (40, &2_u16.to_ne_bytes()),
            (42, &[32, 32, 17]),
            // id: daddr, spi, proto
            (56, &[192, 0, 2, 2]),
            (72, &0xc0de_u32.to_be_bytes()),
            (76, &[50]),
            (80, &[192, 0, 2, 1]),
            // lft: no limit of bytes, 1000 and 2000 packets, 3600 s to live
            (96, &[0xff; 16]),
            (112, &1000_u64.to_ne_bytes()),
            (120, &2000_u64.to_ne_bytes()),
            (136, &3600_u64.to_ne_bytes()),
            // curlft: bytes, packets, added
            (160, &12_345_u64.to_ne_bytes()),
            (168, &67_u64.to_ne_bytes()),
            (176, &1_700_000_000_u64.to_ne_bytes()),
            // stats: outside of the window, replayed, forged
            (192, &1_u32.to_ne_bytes()),
            (196, &2_u32.to_ne_bytes()),
            (200, &3_u32.to_ne_bytes()),
            (208, &16_401_u32.to_ne_bytes()),
            (212, &2_u16.to_ne_bytes()),
            // mode transport, replay_window, XFRM_STATE_ESN
            (214, &[0, 32, 128]),
        ],
    )
}

fn message(kind: u16, fixed: &[u8], attrs: &[(u16, &[u8])]) -> Vec<u8> {
    let mut writer = MessageWriter::new(kind, 0, Seq(1));
    writer.fixed(fixed);
    for (attr, payload) in attrs {
        writer.put(*attr, payload);
    }
    writer.finish().expect("it is short")
}

fn read(bytes: &[u8]) -> Result<Event, Malformed> {
    Event::decode(&Message::first(bytes)?)
}

fn aead() -> Vec<u8> {
    let mut aead = structure(72, &[(0, b"rfc4106(gcm(aes))"), (64, &160_u32.to_ne_bytes())]);
    aead[68..72].copy_from_slice(&128_u32.to_ne_bytes());
    aead.extend(CANARY);
    aead
}

fn offload(ifindex: u32, flags: u8) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&ifindex.to_ne_bytes());
    bytes[4] = flags;
    bytes
}

fn sa_of(bytes: &[u8]) -> Sa {
    match read(bytes) {
        Ok(Event::Sa(sa)) => *sa,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_security_association_is_read_in_full_but_for_its_key() {
    let esn: Vec<u8> = [4_u32, 7, 9, 1, 2, 128].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let attrs: &[(u16, &[u8])] = &[
        (XFRMA_ALG_AEAD, &aead()),
        (XFRMA_MARK, &[1, 0, 0, 0, 0xff, 0, 0, 0]),
        (23, &esn),
        (XFRMA_OFFLOAD_DEV, &offload(7, 4)),
        (XFRMA_IF_ID, &5_u32.to_ne_bytes()),
    ];
    let sa = sa_of(&message(XFRM_MSG_NEWSA, &usersa_info(), attrs));
    let dst = "192.0.2.2".parse().expect("an address");
    assert_eq!(sa.id, SaId { dst, spi: Spi(0xc0de), proto: 50, mark: (1, 0xff) });
    assert_eq!(
        (sa.src.to_string().as_str(), sa.mode, sa.reqid),
        ("192.0.2.1", SaMode::Transport, Reqid(16_401))
    );
    assert_eq!(
        (sa.lifetime.bytes, sa.lifetime.packets, sa.lifetime.added_s),
        (
            Limit::default(),
            Limit { soft: Some(1000), hard: Some(2000) },
            Limit { soft: None, hard: Some(3600) }
        )
    );
    assert_eq!((sa.bytes, sa.packets, sa.added_at_s), (12_345, 67, 1_700_000_000));
    assert_eq!((sa.outside_window, sa.replayed, sa.forged), (1, 2, 3));
    assert_eq!(sa.replay, Replay { window: 128, sent: 1 << 32 | 7, received: 2 << 32 | 9 });
    assert!(sa.esn && sa.is_in_hardware() && !sa.udp_encap);
    assert_eq!((sa.if_id, sa.told_direction()), (5, Some(SaDirection::Out)));
    let algorithm = Algorithm { name: "rfc4106(gcm(aes))".into(), key_bits: 160, icv_bits: Some(128) };
    assert_eq!(sa.algorithms, [Some(algorithm), None]);
    assert!(sa.selector.takes(dst, 17, 6081) && !sa.selector.takes(dst, 17, 4789));
    assert!(!format!("{sa:?}").contains("canary"));
}

#[test]
fn the_device_and_how_much_it_does_are_read() {
    let of = |flags| {
        let attrs: &[(u16, &[u8])] = &[(9, &[0; 32]), (XFRMA_OFFLOAD_DEV, &offload(7, flags))];
        let sa = sa_of(&message(XFRM_MSG_UPDSA, &usersa_info(), attrs));
        (sa.offload.map(|offload| (offload.ifindex, offload.word())), sa.told_direction())
    };
    assert_eq!(of(6), (Some((Ifindex(7), "packet")), Some(SaDirection::In)));
    assert_eq!(of(0), (Some((Ifindex(7), "crypto")), Some(SaDirection::Out)));
    let none = sa_of(&message(XFRM_MSG_NEWSA, &usersa_info(), &[(XFRMA_OFFLOAD_DEV, &offload(0, 4))]));
    assert_eq!((none.offload, none.told_direction()), (None, None));
    let told = sa_of(&message(XFRM_MSG_NEWSA, &usersa_info(), &[(33, &[1])]));
    assert_eq!(told.told_direction(), Some(SaDirection::In));
}

#[test]
fn what_goes_away_is_told_by_its_name() {
    let id = structure(24, &[(0, &[192, 0, 2, 2]), (16, &9_u32.to_be_bytes()), (20, &[2, 0, 50])]);
    let dst = "192.0.2.2".parse().expect("an address");
    let gone = SaId { dst, spi: Spi(9), proto: 50, mark: (0, 0) };
    assert_eq!(
        read(&message(XFRM_MSG_DELSA, &id, &[(6, &usersa_info())])),
        Ok(Event::SaGone { id: gone, counted: Some((12_345, 67)) })
    );
    assert_eq!(read(&message(XFRM_MSG_DELSA, &id, &[])), Ok(Event::SaGone { id: gone, counted: None }));
    assert_eq!(read(&message(XFRM_MSG_FLUSHSA, &[255], &[])), Ok(Event::SasGone(255)));
    let mut expire = usersa_info();
    expire.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    let hard = Event::SaExpired { id: SaId { spi: Spi(0xc0de), ..gone }, hard: true, counted: (12_345, 67) };
    assert_eq!(read(&message(XFRM_MSG_EXPIRE, &expire, &[])), Ok(hard));
}

fn userpolicy_info() -> Vec<u8> {
    structure(
        168,
        &[
            (0, &[192, 0, 2, 2]),
            (16, &[192, 0, 2, 1]),
            (40, &2_u16.to_ne_bytes()),
            (42, &[32, 32, 17]),
            (152, &371_328_u32.to_ne_bytes()),
            (156, &81_u32.to_ne_bytes()),
            (160, &[1, 0]),
        ],
    )
}

#[test]
fn a_policy_encrypts_where_a_template_must_be_met() {
    let template = structure(64, &[(44, &16_401_u32.to_ne_bytes()), (24, &[2, 0])]);
    let of = |info: &[u8], attrs: &[(u16, &[u8])]| match read(&message(XFRM_MSG_NEWPOLICY, info, attrs)) {
        Ok(Event::Policy(policy)) => *policy,
        other => panic!("{other:?}"),
    };
    let policy = of(&userpolicy_info(), &[(5, &template), (XFRMA_POLICY_TYPE, &[0; 6])]);
    assert_eq!(
        (policy.index, policy.direction, policy.priority),
        (PolicyIndex(81), PolicyDirection::Out, 371_328)
    );
    let expected = Template { dst: None, reqid: Reqid(16_401), mode: SaMode::Transport, optional: false };
    assert_eq!(policy.templates, [expected]);
    assert!(policy.encrypts());
    let clear = of(&userpolicy_info(), &[]);
    assert!(!clear.encrypts(), "packets pass it in the clear");
    let mut optional = template.clone();
    optional[50] = 1;
    assert!(!of(&userpolicy_info(), &[(5, &optional)]).encrypts());
    let mut blocking = userpolicy_info();
    blocking[161] = 1;
    assert!(!of(&blocking, &[(5, &template)]).encrypts());
}

#[test]
fn policies_of_mobility_are_left_out_and_those_that_go_are_told() {
    let sub: &[(u16, &[u8])] = &[(XFRMA_POLICY_TYPE, &[1, 0, 0, 0, 0, 0])];
    assert_eq!(read(&message(XFRM_MSG_NEWPOLICY, &userpolicy_info(), sub)), Ok(Event::Nothing));
    let id = structure(64, &[(56, &7_u32.to_ne_bytes())]);
    assert_eq!(read(&message(XFRM_MSG_DELPOLICY, &id, &[])), Ok(Event::PolicyGone(PolicyIndex(7))));
    let whole: &[(u16, &[u8])] = &[(XFRMA_POLICY, &userpolicy_info())];
    assert_eq!(read(&message(XFRM_MSG_DELPOLICY, &id, whole)), Ok(Event::PolicyGone(PolicyIndex(81))));
    assert_eq!(read(&message(XFRM_MSG_FLUSHPOLICY, &[], &[])), Ok(Event::PoliciesGone));
}

#[test]
fn short_and_other_messages_are_malformed() {
    assert!(read(&message(XFRM_MSG_NEWSA, &[0; 100], &[])).is_err());
    assert!(read(&message(XFRM_MSG_NEWSA, &usersa_info(), &[(XFRMA_OFFLOAD_DEV, &[0; 4])])).is_err());
    assert!(read(&message(XFRM_MSG_NEWSA, &usersa_info(), &[(XFRMA_ALG_AEAD, &[0; 70])])).is_err());
    assert!(read(&message(XFRM_MSG_EXPIRE, &usersa_info(), &[])).is_err());
    assert!(read(&message(0x0f, &usersa_info(), &[])).is_err());
}
