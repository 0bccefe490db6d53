//! The default file and the reference page, written from the key table.

use std::fmt::Write as _;

use super::EXTERNAL_ID_PREFIX;
use super::devices::{DEVICE_KEYS, EXTERNAL_IDS_DOC, PORT_KEYS};
use super::keys::KEYS;
use super::rules::RULE_KEYS;

/// Folds text into lines of at most `width` characters, each with a prefix.
fn fold(text: &str, prefix: &str, width: usize) -> String {
    let mut out = String::new();
    let mut line = String::from(prefix);
    for word in text.split_whitespace() {
        if line.len() > prefix.len() && line.len() + 1 + word.len() > width {
            let _ = writeln!(out, "{}", line.trim_end());
            line = String::from(prefix);
        }
        if line.len() > prefix.len() {
            line.push(' ');
        }
        line.push_str(word);
    }
    let _ = writeln!(out, "{}", line.trim_end());
    out
}

/// Every key of a port of a device: name, shape, meaning.
fn port_keys() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let keys = PORT_KEYS.iter().map(|key| (key.name, key.shape, key.doc));
    let (before, after) =
        (keys.clone().take_while(|key| key.0 != "netns"), keys.skip_while(|key| key.0 != "netns"));
    before.chain([EXTERNAL_IDS_DOC]).chain(after)
}

/// The commented default file: every key, commented out, with its default.
pub fn default_file() -> String {
    let mut out = String::from(
        "# Configuration of ovs-offloadd. Every key is listed here with its default.\n\
         # Check a change with: ovs-offloadd --config FILE --check\n\
         # Take it over with: ovs-offloadctl reload   (or systemctl reload ovs-offloadd)\n",
    );
    let mut table = "";
    for key in KEYS {
        let (key_table, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if key_table != table {
            let _ = write!(out, "\n[{key_table}]\n");
            table = key_table;
        }
        let restart = if key.reloads { "" } else { " (needs a restart)" };
        out.push('\n');
        out.push_str(&fold(key.doc, "# ", 100));
        out.push_str(&fold(&format!("Value: {}{restart}", key.shape), "# ", 100));
        let _ = writeln!(out, "#{name} = {}", key.default);
    }
    out.push_str(
        "\n# Address sets, for conditions that name them: ip4.dst == $internal\n\
         #\n\
         # [address-sets]\n\
         # internal = [\"10.0.0.0/8\", \"fd00::/8\"]\n\
         \n# Rules, asked in their order; the first that matches decides. The language is that of OVN's\n\
         # logical flows: docs/policy.md.\n\
         #\n\
         # [[rule]]\n\
         # name = \"health checks stay in software\"\n\
         # match = 'tcp.dst == {8080, 10256} || icmp4 || arp'\n\
         # place = \"software\"\n\
         #\n\
         # Keys of a rule:\n",
    );
    for key in RULE_KEYS {
        out.push_str(&fold(&format!("{}: {} ({})", key.name, key.doc, key.shape), "#   ", 100));
    }
    out.push_str(
        "\n# NICs and what they shall be: docs/nics.md. Without any, no NIC is ever changed.\n\
         #\n\
         # [[device]]\n\
         # handle = \"pci/0000:03:00.0\"\n\
         # eswitch-mode = \"switchdev\"\n\
         # vfs = 4\n\
         #\n\
         # [[device.port]]\n\
         # vf = 0\n\
         # bridge = \"br-int\"\n\
         # iface-id = \"pod1\"\n\
         #\n\
         # Keys of a device:\n",
    );
    for key in DEVICE_KEYS {
        out.push_str(&fold(&format!("{}: {} ({})", key.name, key.doc, key.shape), "#   ", 100));
    }
    out.push_str("#\n# Keys of a port:\n");
    for (name, shape, doc) in port_keys() {
        out.push_str(&fold(&format!("{name}: {doc} ({shape})"), "#   ", 100));
    }
    out
}

/// The reference page for people, in Markdown.
pub fn reference_page() -> String {
    let mut out = String::from("# Configuration\n\n");
    for paragraph in [
        "`ovs-offloadd` reads one TOML file, `/etc/ovs-offloadd.toml` unless `--config FILE` names another. Every \
         key has a default; an absent default file is an empty one. This page and the packaged file are written \
         from the table of keys in the code.",
        "A key that is not listed here is refused, with file, line, column and the nearest known name. \
         `ovs-offloadd --config FILE --check` says `ok`, or every error, and exits with 0 or 2.",
        "`ovs-offloadctl reload`, `systemctl reload ovs-offloadd` and SIGHUP read the file again. If it is wrong \
         the running configuration stays as it was; the command, the log and `ovs-offloadctl status` say why.",
        "Keys marked *OVSDB* can also be set in the database, as OVN users expect: \
         `ovs-vsctl set Open_vSwitch . external_ids:offloadd-policy-min-rate=\"5 Mbit/s\"`, with dashes for dots. \
         The file wins over the database, because it belongs to the machine's administrator; what names a \
         socket or an address can be set in the file only. If one of them is wrong, all that came from the \
         database stays as it was, and the log and `status` say why.",
        "Times are written with us, ms, s, min, h or d; rates with bit/s or pkt/s, \
         and k, M, G or T before it.",
    ] {
        out.push_str(&fold(paragraph, "", 116));
        out.push('\n');
    }
    for key in KEYS {
        let _ = writeln!(out, "## `{}`\n", key.name);
        out.push_str(&fold(key.doc, "", 116));
        let _ = writeln!(out, "\n- Value: {}", key.shape);
        let _ = writeln!(out, "- Default: `{}`", key.default);
        let change = if key.reloads { "takes effect on reload" } else { "needs a restart" };
        let _ = writeln!(out, "- A change {change}.");
        if key.in_ovsdb {
            let _ =
                writeln!(out, "- *OVSDB*: `external_ids:{EXTERNAL_ID_PREFIX}{}`", key.name.replace('.', "-"));
        }
        out.push('\n');
    }
    out.push_str("## `[address-sets]`\n\n");
    out.push_str(&fold(
        "Lists of addresses by name, for conditions: `internal = [\"10.0.0.0/8\", \"fd00::/8\"]` is `$internal` there. A \
         set may hold addresses of several kinds; a field takes those of its own. A change takes effect on reload.",
        "",
        116,
    ));
    out.push_str("\n## `[[rule]]`\n\n");
    out.push_str(&fold(
        "One rule of the policy; rules are asked in their order, and the first that matches a flow decides. \
         [policy.md](policy.md) has the language and examples. A change takes effect on reload, and moves only the \
         flows of which the rules say otherwise than before.",
        "",
        116,
    ));
    out.push_str("\n| key | value | meaning |\n|---|---|---|\n");
    for key in RULE_KEYS {
        let _ = writeln!(out, "| `{}` | {} | {} |", key.name, key.shape, key.doc);
    }
    out.push_str("\n## `[[device]]`\n\n");
    out.push_str(&fold(
        "What one NIC shall be. What is absent is left as it is, and without any device no NIC is ever changed. \
         [nics.md](nics.md) says what is done in which order, and what comes of a failure. A change takes effect on reload.",
        "",
        116,
    ));
    out.push_str("\n| key | value | meaning |\n|---|---|---|\n");
    for key in DEVICE_KEYS {
        let _ = writeln!(out, "| `{}` | {} | {} |", key.name, key.shape, key.doc);
    }
    out.push_str("\n## `[[device.port]]`\n\n");
    out.push_str(&fold("One function of the device above it, and its representor.", "", 116));
    out.push_str("\n| key | value | meaning |\n|---|---|---|\n");
    for (name, shape, doc) in port_keys() {
        let _ = writeln!(out, "| `{name}` | {shape} | {doc} |");
    }
    let end = out.trim_end().len();
    out.truncate(end);
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, assignments_in};
    use crate::golden;
    use std::path::Path;

    #[test]
    fn the_packaged_file_lists_exactly_the_keys_the_code_knows() {
        golden::compare("packaging/ovs-offloadd.toml", &default_file());
    }

    #[test]
    fn the_reference_page_lists_exactly_the_keys_the_code_knows() {
        golden::compare("docs/configuration.md", &reference_page());
    }

    #[test]
    fn the_default_file_with_its_keys_uncommented_gives_the_defaults() {
        let text: String = default_file()
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if !key.starts_with(' ') => format!("{key}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let written = assignments_in(Path::new("default"), &text).unwrap();
        assert_eq!(written.assignments.len(), KEYS.len());
        assert_eq!(Config::from_file(&[], &written).unwrap(), Config::defaults());
    }
}
