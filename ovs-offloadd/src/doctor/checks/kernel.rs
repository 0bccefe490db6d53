//! The kernel's options and modules.

use crate::doctor::{Facts, Finding, Kind, Severity, Stage};

/// All kinds found here.
pub const KINDS: &[&Kind] = &[
    &NO_OFFLOAD,
    &NO_ACTION,
    &MODULE_MISSING,
    &NO_SKB_EXT,
    &OPTIONS_UNKNOWN,
    &MODULES_UNKNOWN,
    &DATAPATH_UNREADABLE,
];

/// A kernel that cannot offload at all.
pub static NO_OFFLOAD: Kind = Kind {
    id: "kernel-no-offload",
    in_lab: true,
    stage: Stage::Kernel,
    severity: Severity::Error,
    complaint: "nothing is offloaded, whatever is set",
    why: "Open vSwitch offloads through TC's flower classifier; without these options there is nothing to offload through",
    mend: "use a kernel with these options; distributions' own have them",
};

/// A kernel without one of TC's actions.
pub static NO_ACTION: Kind = Kind {
    id: "kernel-no-action",
    in_lab: true,
    stage: Stage::Kernel,
    severity: Severity::Warning,
    complaint: "some flows are never offloaded: those with a tunnel, a VLAN, conntrack, a meter or changed headers",
    why: "flows that need the action stay in Open vSwitch's kernel datapath, and out of hardware",
    mend: "use a kernel with these options",
};

/// A module that is not there.
pub static MODULE_MISSING: Kind = Kind {
    id: "module-missing",
    in_lab: true,
    stage: Stage::Kernel,
    severity: Severity::Error,
    complaint: "some or all flows are never offloaded, although the kernel's options are right",
    why: "flows that need the module stay in Open vSwitch's kernel datapath, and out of hardware",
    mend: "install the package that has this kernel's other modules (linux-modules-extra, kernel-modules-core, \
           kmod-sched …), or see why the module cannot be loaded",
};

/// A kernel without `CONFIG_NET_TC_SKB_EXT`.
pub static NO_SKB_EXT: Kind = Kind {
    id: "kernel-no-skb-ext",
    in_lab: true,
    stage: Stage::Kernel,
    severity: Severity::Warning,
    complaint: "conntrack flows are never offloaded (ACLs, NAT, load balancers of OVN); Open vSwitch logs \
                \"recirc_id sharing not supported\"",
    why: "without CONFIG_NET_TC_SKB_EXT Open vSwitch keeps every flow with conntrack or recirculation out of TC, and so out of \
          hardware",
    mend: "use a kernel with CONFIG_NET_TC_SKB_EXT=y; Debian's have it off",
};

/// The kernel's options cannot be read.
pub static OPTIONS_UNKNOWN: Kind = Kind {
    id: "kernel-options-unknown",
    in_lab: true,
    stage: Stage::Kernel,
    severity: Severity::Note,
    complaint: "doctor says that it cannot look",
    why: "whether an option that offloading needs is off cannot be told",
    mend: "put the kernel's configuration where it belongs, /boot/config-RELEASE",
};

/// The datapath cannot be asked.
pub static DATAPATH_UNREADABLE: Kind = Kind {
    id: "datapath-unreadable",
    in_lab: false,
    stage: Stage::Kernel,
    severity: Severity::Note,
    complaint: "doctor says that it cannot look",
    why: "whether conntrack flows can be in TC cannot be told from what Open vSwitch could turn on",
    mend: "see whether the module openvswitch is loaded, and whether all bridges are of the userspace datapath",
};

/// The modules cannot be listed.
pub static MODULES_UNKNOWN: Kind = Kind {
    id: "modules-unknown",
    in_lab: false,
    stage: Stage::Kernel,
    severity: Severity::Note,
    complaint: "doctor says that it cannot look",
    why: "whether a module that offloading needs is missing cannot be told",
    mend: "run this where /lib/modules is that of the running kernel, and not in a container",
};

/// An option, the module that it makes, and whether nothing is offloaded without it.
struct Needed {
    /// None where the module may come from elsewhere.
    option: Option<&'static str>,
    module: Option<&'static str>,
    all: bool,
}

const fn needed(option: Option<&'static str>, module: Option<&'static str>, all: bool) -> Needed {
    Needed { option, module, all }
}

const NEEDED: &[Needed] = &[
    needed(None, Some("openvswitch"), true),
    needed(Some("NET_SWITCHDEV"), None, true),
    needed(Some("NET_CLS_ACT"), None, true),
    needed(Some("NET_SCH_INGRESS"), Some("sch_ingress"), true),
    needed(Some("NET_CLS_FLOWER"), Some("cls_flower"), true),
    needed(Some("NET_ACT_MIRRED"), Some("act_mirred"), true),
    needed(Some("NET_ACT_GACT"), Some("act_gact"), true),
    needed(Some("NET_ACT_PEDIT"), Some("act_pedit"), false),
    needed(Some("NET_ACT_CSUM"), Some("act_csum"), false),
    needed(Some("NET_ACT_VLAN"), Some("act_vlan"), false),
    needed(Some("NET_ACT_SKBEDIT"), Some("act_skbedit"), false),
    needed(Some("NET_ACT_TUNNEL_KEY"), Some("act_tunnel_key"), false),
    needed(Some("NET_ACT_POLICE"), Some("act_police"), false),
    needed(Some("NET_ACT_CT"), Some("act_ct"), false),
];

/// Options that are off.
pub fn lacks_options(facts: &Facts) -> Vec<Finding> {
    let Ok(options) = &facts.kernel.options else { return Vec::new() };
    let mut findings = Vec::new();
    for (all, kind) in [(true, &NO_OFFLOAD), (false, &NO_ACTION)] {
        let off: Vec<String> = NEEDED
            .iter()
            .filter(|needed| needed.all == all)
            .filter_map(|needed| needed.option.filter(|option| !options.contains_key(*option)))
            .map(|option| format!("CONFIG_{option}"))
            .collect();
        if !off.is_empty() {
            let what = format!("kernel {} lacks {}", facts.kernel.release, off.join(", "));
            findings.push(kind.found(off, what));
        }
    }
    findings
}

/// Modules that are neither loaded nor there to be loaded.
pub fn lacks_modules(facts: &Facts) -> Vec<Finding> {
    let Ok(modules) = &facts.kernel.modules else { return Vec::new() };
    let options = facts.kernel.options.as_ref().ok();
    // Nothing where it is not known, as it is for a module from elsewhere.
    let value = |needed: &Needed| Some(options?.get(needed.option?).copied());
    let mut findings = Vec::new();
    for all in [true, false] {
        let missing: Vec<&str> = NEEDED
            .iter()
            .filter(|needed| needed.all == all)
            // Built in it needs no module; switched off it has none, and that is told already.
            .filter(|needed| matches!(value(needed), None | Some(Some('m'))))
            .filter_map(|needed| needed.module.filter(|module| !modules.contains(*module)))
            .collect();
        if missing.is_empty() {
            continue;
        }
        let what = format!(
            "no {} for kernel {}: neither loaded, nor built in, nor in /lib/modules",
            missing.join(", "),
            facts.kernel.release
        );
        let command = format!("modprobe -a {}", missing.join(" "));
        let severity = if all { Severity::Error } else { Severity::Warning };
        findings.push(MODULE_MISSING.found(missing, what).run(command).but(severity));
    }
    findings
}

/// No `CONFIG_NET_TC_SKB_EXT`, by the kernel's options or, where they cannot be read, by what Open vSwitch could turn on. Where
/// it could, the kernel has the option, whatever a file says.
pub fn lacks_skb_ext(facts: &Facts) -> Vec<Finding> {
    let offloads = facts.vswitchd.is_ok() && facts.ovsdb.as_ref().is_ok_and(|ovs| ovs.hw_offload);
    let how = match (&facts.kernel.options, &facts.shares_recirc_ids) {
        (_, Ok(Some(true))) => return Vec::new(),
        (Ok(options), _) if options.contains_key("NET_TC_SKB_EXT") => return Vec::new(),
        (Ok(_), _) => "by its configuration",
        (Err(_), Ok(Some(false))) if offloads => "Open vSwitch could not turn recirc_id sharing on",
        (Err(_), _) => return Vec::new(),
    };
    let what = format!("kernel {} lacks CONFIG_NET_TC_SKB_EXT ({how})", facts.kernel.release);
    vec![NO_SKB_EXT.found(["CONFIG_NET_TC_SKB_EXT"], what)]
}

/// What of the kernel cannot be told.
pub fn unreadable(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(why) = &facts.kernel.options {
        findings.push(OPTIONS_UNKNOWN.found([""; 0], format!("the kernel's options cannot be read: {why}")));
    }
    if let Err(why) = &facts.kernel.modules {
        findings.push(MODULES_UNKNOWN.found([""; 0], format!("the modules cannot be listed: {why}")));
    }
    // Without ovs-vswitchd there may well be no datapath, which is another finding.
    if let (Err(why), Ok(_)) = (&facts.shares_recirc_ids, &facts.vswitchd) {
        findings
            .push(DATAPATH_UNREADABLE.found([""; 0], format!("the kernel datapath cannot be asked: {why}")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::checks::seen;
    use crate::doctor::facts::sample;

    fn without_option(option: &str) -> Facts {
        let mut facts = sample::healthy();
        facts.kernel.options.as_mut().unwrap().remove(option);
        facts
    }

    #[test]
    fn options_that_are_off_are_named() {
        let found = lacks_options(&without_option("NET_CLS_FLOWER"));
        assert_eq!(seen(&found), [("kernel-no-offload", vec!["CONFIG_NET_CLS_FLOWER"])]);
        assert_eq!(found[0].severity, Severity::Error);
        let found = lacks_options(&without_option("NET_ACT_CT"));
        assert_eq!(seen(&found), [("kernel-no-action", vec!["CONFIG_NET_ACT_CT"])]);
    }

    #[test]
    fn a_module_is_missing_where_the_option_makes_one() {
        let mut facts = sample::healthy();
        facts.kernel.modules.as_mut().unwrap().remove("act_ct");
        assert_eq!(seen(&lacks_modules(&facts)), [("module-missing", vec!["act_ct"])]);
        facts.kernel.options.as_mut().unwrap().insert("NET_ACT_CT".into(), 'y');
        assert_eq!(lacks_modules(&facts), [], "built in");
        facts.kernel.options.as_mut().unwrap().remove("NET_ACT_CT");
        assert_eq!(lacks_modules(&facts), [], "off, which is another finding");
        facts.kernel.options = Err("unknown".into());
        assert_eq!(seen(&lacks_modules(&facts)), [("module-missing", vec!["act_ct"])]);
        facts.kernel.modules.as_mut().unwrap().remove("cls_flower");
        let found = lacks_modules(&facts);
        assert_eq!(found[0].names, ["cls_flower"]);
        assert_eq!(found[0].severity, Severity::Error);
        assert_eq!(found[0].command.as_deref(), Some("modprobe -a cls_flower"));
    }

    #[test]
    fn a_datapath_that_does_not_answer_is_a_note_while_the_switch_runs() {
        let mut facts = sample::healthy();
        facts.shares_recirc_ids = Err("ENOENT".into());
        assert_eq!(seen(&unreadable(&facts)), [("datapath-unreadable", vec![])]);
        facts.vswitchd = Err("gone".into());
        assert_eq!(unreadable(&facts), []);
    }

    #[test]
    fn a_kernel_without_skb_ext_is_known_by_its_options_or_by_what_open_vswitch_could_do() {
        let mut facts = without_option("NET_TC_SKB_EXT");
        assert_eq!(
            lacks_skb_ext(&facts),
            [],
            "Open vSwitch shares them, so that the options are another kernel's"
        );
        facts.shares_recirc_ids = Ok(None);
        assert_eq!(seen(&lacks_skb_ext(&facts)), [("kernel-no-skb-ext", vec!["CONFIG_NET_TC_SKB_EXT"])]);
        facts.kernel.options = Err("unknown".into());
        facts.shares_recirc_ids = Ok(Some(false));
        assert_eq!(lacks_skb_ext(&facts).len(), 1);
        facts.ovs_mut().hw_offload = false;
        assert_eq!(lacks_skb_ext(&facts), [], "nobody tried");
    }
}
