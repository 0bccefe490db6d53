//! Keys of tunnels that are driven are nowhere but where they are used.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lab_tests::ensure;
use lab_tests::harness::{Daemon, Failure, Lab, Outcome, run, wait_for, wait_until};

use super::capture::Capture;
use super::hosts::{DONE_WITHIN, Host, Hosts};
use super::{CorePattern, find, hex};

/// 36 bytes that are found nowhere by chance.
const PSK: &str = "CANARY-psk-0f-the-test-that-is-n0whr";
/// So much of a key is enough to be recognised.
const PART: usize = 9;
/// The beginning of the private value of a key of a curve of 256 bits (RFC 5915): `OCTET STRING` of 32 bytes.
const PRIVATE_VALUE: [u8; 2] = [0x04, 0x20];

/// Secrets by what they are, each as its bytes.
#[derive(Default)]
struct Secrets {
    of_kernel: BTreeSet<Vec<u8>>,
    private_keys: Vec<Vec<u8>>,
    /// Lines of their files.
    lines: Vec<Vec<u8>>,
}

impl Secrets {
    /// Adds the keys that the kernels have now.
    fn learn(&mut self, hosts: &Hosts) -> Outcome {
        for (host, _) in hosts.both() {
            let text = host.netns.run(&["ip", "xfrm", "state"])?;
            let keys = text.lines().filter_map(|line| line.trim().strip_prefix("aead rfc4106(gcm(aes)) 0x"));
            for key in keys.filter_map(|rest| rest.split_whitespace().next()) {
                self.of_kernel.insert(bytes_of_hex(key)?);
            }
        }
        Ok(())
    }

    /// Adds what is in a file of a private key: its lines, and the number that they say.
    fn learn_file(&mut self, path: &Path) -> Outcome {
        let text = fs::read_to_string(path)?;
        let lines = text.lines().filter(|line| !line.starts_with("-----"));
        self.lines.extend(lines.map(|line| line.as_bytes().to_vec()));
        let script = "sed /-----/d \"$1\" | base64 -d | od -An -v -tx1";
        let dump = run("sh", &["-c", script, "decode", &path.display().to_string()])?;
        let der = bytes_of_hex(&dump.split_whitespace().collect::<String>())?;
        let at = der.windows(2).position(|two| two == PRIVATE_VALUE).map(|at| at + 2);
        let key = at.and_then(|at| der.get(at..at + 32));
        self.private_keys.push(key.ok_or_else(|| Failure::new("the file has no private value"))?.to_vec());
        Ok(())
    }

    /// No part of the keys of the kernel and of private keys is in it, as bytes or as a person would print them.
    fn are_not_in(&self, what: &str, bytes: &[u8]) -> Outcome {
        let keys = self.of_kernel.iter().chain(&self.private_keys);
        let forms: Vec<Vec<u8>> = keys.flat_map(|key| forms(key)).chain(self.lines.iter().cloned()).collect();
        is_clean(what, bytes, &forms)
    }

    /// Nor of the key that both ends have.
    fn nor_the_psk(&self, what: &str, bytes: &[u8]) -> Outcome {
        self.are_not_in(what, bytes)?;
        is_clean(what, bytes, &forms(PSK.as_bytes()))
    }
}

fn bytes_of_hex(text: &str) -> Outcome<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return Err(Failure::new(format!("{} digits", text.len())));
    };
    pairs.iter().map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}

/// Parts of a key as bytes and as text.
fn forms(key: &[u8]) -> Vec<Vec<u8>> {
    let of_part = |part: &[u8]| {
        let printed = hex(part);
        let list = part.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        [part.to_vec(), printed.to_uppercase().into_bytes(), printed.into_bytes(), list.into_bytes()]
    };
    key.chunks_exact(PART).flat_map(of_part).collect()
}

/// None of `forms` is in it. One pass for all of them: a core is large.
fn is_clean(what: &str, bytes: &[u8], forms: &[Vec<u8>]) -> Outcome {
    let begins = |two: &[u8]| usize::from(u16::from_be_bytes([two[0], two[1]]));
    let mut is_begin = vec![false; 1 << 16];
    forms.iter().for_each(|form| is_begin[begins(form)] = true);
    for (at, two) in bytes.windows(2).enumerate() {
        if is_begin[begins(two)] {
            let found = forms.iter().any(|form| bytes[at..].starts_with(form));
            ensure!(!found, "{what} has a part of a key at byte {at}");
        }
    }
    Ok(())
}

pub(super) fn no_key_of_a_driven_tunnel_is_on_the_wire_in_log_recording_answers_or_core(
    lab: &mut Lab,
) -> Outcome {
    let mut hosts = Hosts::new(lab, ["172.31.0.1", "172.31.0.2"], "log.level = \"trace\"")?;
    let recording = lab.dir().join("events.log");
    record(lab, &mut hosts.left, &recording)?;
    let own = [hosts.left.certificate(lab, "hv1", None)?, hosts.right.certificate(lab, "hv2", None)?];
    let mut secrets = Secrets::default();
    for (key, _) in &own {
        secrets.learn_file(key)?;
    }

    // From the first negotiation on, and what the tunnel carries in between.
    let capture = Capture::start(lab, hosts.tcpdump(), "wire")?;
    hosts.tunnel("geneve", &[&format!("options:psk={PSK}")])?;
    hosts.are_up()?;
    hosts.reach_each_other()?;
    secrets.learn(&hosts)?;
    is_rekeyed(&hosts.left)?;
    secrets.learn(&hosts)?;
    let answers = answers(&hosts.left.daemon);
    ensure!(answers.contains("\"auth\": \"psk\"") || answers.contains("\"auth\":\"psk\""), "{answers}");
    secrets.nor_the_psk("an answer", answers.as_bytes())?;

    // From the key to certificates.
    let before = hosts.left.spis()?;
    for (at, (host, _)) in hosts.both().into_iter().enumerate() {
        let of_peer = format!("options:remote_cert={}", own[1 - at].1.display());
        let no_psk = [
            "--",
            "remove",
            "Interface",
            "tun0",
            "options",
            "psk",
            "--",
            "set",
            "Interface",
            "tun0",
            &of_peer,
        ];
        host.is_known_by(&own[at], &no_psk)?;
    }
    hosts.have_others_than(&before)?;
    hosts.reach_each_other()?;
    secrets.learn(&hosts)?;
    let more = self::answers(&hosts.left.daemon);
    ensure!(more.contains("self-signed"), "{more}");
    secrets.nor_the_psk("an answer", more.as_bytes())?;
    let wire = capture.bytes()?;
    ensure!(find(&wire, b"\x01\xf4\x01\xf4"), "no negotiation is on the wire");
    secrets.nor_the_psk("the wire", &wire)?;

    let core = core_of(lab, &mut hosts.left)?;
    // It is that process's, with what it knows of tunnels and of security associations, and what is there is found.
    for there in ["offloadd-geneve-6081", "rfc4106(gcm(aes))"] {
        let found = is_clean("the core", &core, &[there.as_bytes().to_vec()]).is_err();
        ensure!(found, "it is not the daemon's core: {there} is not in its {} bytes", core.len());
    }
    ensure!(secrets.of_kernel.len() >= 6, "{} keys of the kernel are known", secrets.of_kernel.len());
    secrets.are_not_in("the core", &core)?;
    let log = hosts.left.daemon.log()?;
    ensure!(log.contains("connection is up") && log.contains("step of IPsec"), "{log}");
    secrets.nor_the_psk("the log", log.as_bytes())?;
    let recorded = fs::read(&recording)?;
    ensure!(find(&recorded, b"ipsec"), "IPsec is not in the event log");
    secrets.nor_the_psk("the event log", &recorded)
}

/// Starts its daemon anew, as one that keeps an event log.
fn record(lab: &Lab, host: &mut Host, recording: &Path) -> Outcome {
    host.daemon.signal("TERM")?;
    let config = Host::config(&host.charon, "mode = \"observe\"\nlog.level = \"trace\"");
    host.daemon =
        Daemon::start_with(lab, &host.ovs, &config, &[&format!("--record={}", recording.display())])?;
    Ok(())
}

/// Has charon negotiate both children anew.
fn is_rekeyed(host: &Host) -> Outcome {
    let shown = host.tunnel()?.unwrap_or_default();
    let connection = shown["connection"].as_str().unwrap_or_default();
    for way in ["in", "out"] {
        let before = host.spis()?;
        host.charon.swanctl(&["--rekey", "--child", &format!("{connection}-{way}")])?;
        wait_until("a child is rekeyed", DONE_WITHIN, || {
            Ok(host.spis()?.iter().filter(|spi| !before.contains(spi)).count() >= 2)
        })?;
    }
    Ok(())
}

/// Everything that the daemon answers.
fn answers(daemon: &Daemon) -> String {
    let asked = [
        &["status"][..],
        &["flow", "list"],
        &["port", "list"],
        &["nic", "list"],
        &["refusal", "list"],
        &["openflow", "list"],
        &["sa", "list"],
        &["tunnel", "list"],
        &["policy", "show"],
        &["doctor"],
        &["version"],
    ];
    let mut text = String::new();
    for words in asked {
        for format in ["table", "json"] {
            let answer = daemon.ctl(&[words, &["--output", format]].concat());
            // What it has to say when it ends with a failure, too.
            text.push_str(&answer.unwrap_or_else(|failure| failure.to_string()));
        }
    }
    let spis: Vec<String> = daemon
        .json(&["sa", "list"])
        .ok()
        .and_then(|list| {
            Some(list.as_array()?.iter().filter_map(|sa| Some(sa["spi"].as_str()?.to_owned())).collect())
        })
        .unwrap_or_default();
    for spi in spis {
        text.push_str(&daemon.ctl(&["sa", "why", &spi, "--output", "json"]).unwrap_or_default());
    }
    text
}

/// Ends its daemon so that it leaves a core, and has that.
fn core_of(lab: &Lab, host: &mut Host) -> Outcome<Vec<u8>> {
    let _pattern = CorePattern::set(lab.dir())?;
    let pid = host.daemon.pid();
    run("prlimit", &["--pid", &pid.to_string(), "--core=unlimited"])?;
    host.daemon.signal("ABRT")?;
    let core: PathBuf = lab.dir().join(format!("core.{pid}"));
    let bytes = wait_for("the core is whole", DONE_WITHIN, || {
        let gone = !Path::new(&format!("/proc/{pid}/exe")).exists();
        Ok(if gone { fs::read(&core).ok() } else { None })
    })?;
    // Nobody needs it, and it is large.
    fs::remove_file(&core)?;
    Ok(bytes)
}
