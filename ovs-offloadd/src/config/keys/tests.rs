use super::*;
use crate::config::file::literal;

#[test]
fn every_default_passes_its_own_check() {
    for key in KEYS {
        let value = literal(key.default).unwrap_or_else(|error| panic!("{}: {error}", key.name));
        (key.set)(&mut Config::default(), &value).unwrap_or_else(|error| panic!("{}: {error}", key.name));
    }
}

#[test]
fn names_are_unique_also_with_dots_as_dashes() {
    let mut names: Vec<String> = KEYS.iter().map(|key| key.name.replace('.', "-")).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), KEYS.len());
}

#[test]
fn every_key_refuses_something() {
    for key in KEYS {
        let nonsense = Scalar::Text("\u{0}nonsense".into());
        assert!((key.set)(&mut Config::default(), &nonsense).is_err(), "{} takes anything", key.name);
    }
}

#[test]
fn what_needs_a_restart_is_noticed_and_nothing_else() {
    let samples: &[(&str, &str)] = &[
        ("mode", "\"observe\""),
        ("ovs.database", "\"unix:/x\""),
        ("ovs.rundir", "\"/x\""),
        ("ovs.vswitchd-timeout", "\"1 s\""),
        ("ovn.southbound", "\"tcp:192.0.2.1:6642\""),
        ("ovn.publish", "\"yes\""),
        ("control.socket", "\"/x\""),
        ("log.level", "\"warn\""),
        ("log.format", "\"json\""),
        ("steer.counters", "\"exact\""),
        ("steer.recirculation", "\"never\""),
        ("shadow.guard", "\"none\""),
        ("shadow.gaps", "true"),
        ("policy.default", "\"software\""),
        ("policy.saving", "\"cpu\""),
        ("policy.min-rate", "\"1 bit/s\""),
        ("policy.min-age", "\"1 s\""),
        ("policy.hysteresis", "0.5"),
        ("policy.min-residency", "\"1 s\""),
        ("policy.epoch", "\"2 s\""),
        ("nic.capacity", "64"),
        ("nic.counter-delay", "\"2 s\""),
        ("nic.installs-per-s", "7"),
        ("nic.install-burst", "7"),
        ("ipsec.drive", "true"),
        ("ipsec.libreswan", "true"),
        ("ipsec.vici", "\"/x\""),
        ("ipsec.offload", "\"none\""),
        ("ipsec.entries", "16"),
        ("ipsec.min-rate", "\"2 Mbit/s\""),
        ("dump.datapath-interval", "\"3 s\""),
        ("metrics.listen", "\"off\""),
        ("limits.flows-max", "5000"),
        ("limits.new-flows-max", "200"),
        ("limits.socket-buffer", "65536"),
        ("limits.requests-in-flight", "9"),
        ("limits.control-clients", "9"),
        ("limits.record-bytes", "1048576"),
    ];
    assert_eq!(samples.len(), KEYS.len());
    for (key, (name, sample)) in KEYS.iter().zip(samples) {
        assert_eq!(key.name, *name);
        let old = Config::defaults();
        let mut new = old.clone();
        (key.set)(&mut new, &literal(sample).unwrap()).unwrap();
        assert_ne!(old, new, "{name} changes nothing");
        let expected: &[&str] = if key.reloads { &[] } else { &[key.name] };
        assert_eq!(old.restart_needed(&new), expected);
    }
}
