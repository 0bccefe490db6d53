//! The actions of a megaflow's text: what is done with its packets (`format_odp_actions`).

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use policies::language::{Sketch, SketchActions, SketchPort};

use super::{NotAMegaflow, call, parts, port};

#[derive(Default)]
struct Actions {
    ports: Vec<SketchPort>,
    tunnel: Option<String>,
    rewrites: bool,
    recirculates: bool,
    goes_elsewhere: bool,
    branches: bool,
    unclear: bool,
}

pub(super) fn read_actions(sketch: &mut Sketch, text: &str) -> Result<(), NotAMegaflow> {
    let mut actions = Actions::default();
    if text != "drop" {
        for part in parts(text) {
            actions.take(part);
        }
    }
    let Actions { ports, tunnel, rewrites, recirculates, goes_elsewhere, branches, unclear } = actions;
    let known = |told: bool| (told || !unclear).then_some(told);
    let drops = match ports.is_empty() && !recirculates && !goes_elsewhere {
        true if unclear => None,
        false if branches => None,
        drops => Some(drops),
    };
    sketch.set_actions(SketchActions { rewrites: known(rewrites), drops, recirculates: known(recirculates) });
    let undecided = recirculates || unclear;
    sketch.encap = tunnel.or((!undecided).then(String::new));
    sketch.outports = (!undecided && !branches).then_some(ports);
    Ok(())
}

impl Actions {
    fn take(&mut self, part: &str) {
        let (name, inside) = call(part);
        match (name, inside) {
            ("set", Some(inside)) => match call(inside) {
                ("tunnel", Some(tunnel)) => self.tunnel = Some(kind_of_tunnel(tunnel)),
                _ => self.rewrites = true,
            },
            ("tnl_push", Some(inside)) => {
                self.tunnel = Some(kind_of_tunnel(inside));
                // `tnl_port(4),header(…),out_port(100)`
                for part in parts(inside) {
                    if let ("out_port", Some(out)) = call(part) {
                        self.ports.push(port(out));
                    }
                }
            }
            (
                "push_vlan" | "push_mpls" | "pop_mpls" | "add_mpls" | "push_eth" | "push_nsh" | "dec_ttl",
                Some(_),
            )
            | ("pop_vlan" | "pop_eth" | "pop_nsh" | "pop_nsh()" | "dec_ttl", None) => self.rewrites = true,
            ("ct", inside) => {
                self.rewrites |= inside.is_some_and(|inside| parts(inside).any(|part| call(part).0 == "nat"));
            }
            ("recirc", Some(_)) => self.recirculates = true,
            ("userspace" | "psample", Some(_)) => self.goes_elsewhere = true,
            ("sample" | "check_pkt_len" | "clone", Some(inside)) => {
                self.branches |= name != "clone";
                self.inner(inside);
            }
            ("hash" | "trunc" | "meter" | "tnl_pop" | "lb_output", Some(_)) | ("ct_clear" | "drop", None) => {
            }
            (_, Some(_)) => self.unclear = true,
            (name, None) => self.ports.push(port(name)),
        }
    }

    /// The actions inside of one: `clone(set(…),3)`, `check_pkt_len(size=200,gt(3),le(2))`.
    fn inner(&mut self, inside: &str) {
        for part in parts(inside) {
            match call(part) {
                ("gt" | "le" | "actions", Some(list)) => {
                    for part in parts(list).filter(|part| *part != "drop") {
                        self.branch(part);
                    }
                }
                _ if part.contains('=') && !part.contains('(') => {}
                _ => self.branch(part),
            }
        }
    }

    /// One level is looked into; what is nested deeper is not judged.
    fn branch(&mut self, part: &str) {
        match call(part).0 {
            "sample" | "check_pkt_len" | "clone" => self.unclear = true,
            _ => self.take(part),
        }
    }
}

/// The kind of tunnel as far as its options or its port tell.
fn kind_of_tunnel(inside: &str) -> String {
    let has = |what: &str| inside.contains(what);
    let kind = if has("geneve(") || has("tp_dst=6081") {
        "geneve"
    } else if has("vxlan(") || has("tp_dst=4789") {
        "vxlan"
    } else if has("erspan(") {
        "erspan"
    } else if has("gre(") {
        "gre"
    } else {
        "tunnel of an unknown kind"
    };
    kind.to_string()
}
