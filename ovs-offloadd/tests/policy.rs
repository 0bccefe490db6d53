//! `ovs-offloadctl policy check` and `policy test --config`, which need no daemon.

use std::process::{Command, Output};

const POLICY: &str = r#"
[address-sets]
web = ["10.1.0.0/16"]

[[rule]]
name = "web stays"
match = 'tcp.dst == {80, 443} && ip4.dst == $web'
place = "software"
"#;

fn ctl(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ovs-offloadctl"));
    command.args(arguments).env("OVS_RUNDIR", "/nonexistent").output().expect("ovs-offloadctl runs")
}

fn file(directory: &tempfile::TempDir, text: &str) -> String {
    let path = directory.path().join("offloadd.toml");
    std::fs::write(&path, text).expect("a file can be written");
    path.to_str().expect("a path in UTF-8").to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[test]
fn a_file_without_mistakes_is_ok_and_its_rules_are_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = file(&directory, POLICY);
    let checked = ctl(&["policy", "check", &path]);
    assert_eq!((checked.status.code(), text(&checked.stdout)), (Some(0), "ok: 1 rule\n".to_owned()));
    let checked = ctl(&["--output", "json", "policy", "check", &path]);
    assert_eq!(text(&checked.stdout), "{\"ok\":true,\"rules\":1}\n");
}

#[test]
fn every_mistake_has_its_line_column_caret_and_suggestion() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = file(&directory, &POLICY.replace("$web", "$wep").replace("software", "sofware"));
    let checked = ctl(&["policy", "check", &path]);
    assert_eq!((checked.status.code(), text(&checked.stdout)), (Some(1), String::new()));
    assert!(
        text(&checked.stderr).contains("offloadd.toml:8:9: place \"sofware\" is not one of"),
        "{checked:?}"
    );
    let path = file(&directory, &POLICY.replace("$web", "$wep"));
    let checked = ctl(&["policy", "check", &path]);
    let told = text(&checked.stderr);
    let line = "  7 | match = 'tcp.dst == {80, 443} && ip4.dst == $wep'\n    |                                             ^^^^ did you mean \"$web\"?";
    assert!(told.contains(&format!("{path}:7:45: there is no address set \"$wep\"\n{line}")), "{told}");
}

#[test]
fn a_flow_is_tried_on_the_rules_of_a_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = file(&directory, POLICY);
    let tested = ctl(&["policy", "test", "--config", &path, "--flow", "tcp.dst=443, ip4.dst=10.1.2.3"]);
    let told = text(&tested.stdout);
    assert!(
        told.starts_with("place software: rule 1 \"web stays\"\n\nrule 1 \"web stays\" matches\n"),
        "{tested:?}"
    );
    let by_ovs = "in_port(2),eth_type(0x0800),ipv4(dst=10.1.0.0/255.0.0.0,proto=6),tcp(dst=80)";
    let tested = ctl(&["-o", "json", "policy", "test", "--config", &path, "--flow", by_ovs]);
    let told: serde_json::Value = serde_json::from_slice(&tested.stdout).expect("JSON");
    assert_eq!((&told["rule"], &told["place"]), (&serde_json::Value::Null, &"auto".into()));
    assert_eq!(told["asked"][0]["truth"], "sometimes");
    let wrong = ctl(&["policy", "test", "--config", &path, "--flow", "tcp.dst=x"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    assert!(text(&wrong.stderr).contains("\"x\" is no number and no address"), "{wrong:?}");
}

#[test]
fn the_reference_policy_for_kubernetes_does_what_it_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/policies/kubernetes.toml");
    let checked = ctl(&["policy", "check", path]);
    assert_eq!(text(&checked.stdout), "ok: 5 rules\n", "{checked:?}");
    for (flow, decision) in [
        ("arp, locality=cross-node, namespace=shop", "place software: rule 1"),
        ("udp, udp.dst=67, locality=same-node, namespace=shop", "place software: rule 1"),
        ("tcp, tcp.dst=443, locality=same-node, namespace=shop, encrypted=no", "place software: rule 2"),
        ("tcp, tcp.dst=443, locality=same-node, namespace=shop, encrypted=yes", "place software: rule 2"),
        (
            "tcp, tcp.dst=443, locality=cross-node, namespace=shop, encrypted=yes",
            "place auto, for tenant \"shop\": rule 3",
        ),
        (
            "tcp, tcp.dst=443, locality=cross-node, namespace=shop, encrypted=no",
            "place auto, for tenant \"shop\": rule 4",
        ),
        // Whether it is encrypted is not known: that is no reason to keep it waiting.
        ("tcp, tcp.dst=443, locality=cross-node, namespace=shop", "place auto, for tenant \"shop\": rule 4"),
        ("tcp, tcp.dst=443, locality=external, namespace=shop", "place auto, for tenant \"shop\": rule 5"),
        ("tcp, tcp.dst=443, locality=external, namespace=\"\"", "place auto: rule 5"),
    ] {
        let tested = ctl(&["policy", "test", "--config", path, "--flow", flow]);
        assert!(text(&tested.stdout).starts_with(decision), "{flow}: {tested:?}");
    }
}

#[test]
fn what_needs_the_daemon_says_so() {
    for arguments in [&["policy", "show"][..], &["policy", "test", "--flow", "tcp"]] {
        let asked = ctl(arguments);
        assert_eq!(asked.status.code(), Some(2), "{asked:?}");
        assert!(text(&asked.stderr).contains("/nonexistent"), "{asked:?}");
    }
}
