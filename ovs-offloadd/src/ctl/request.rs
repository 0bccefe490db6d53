//! How a command travels: as a unixctl method with string parameters.

use clap::{CommandFactory as _, Parser, ValueEnum as _};

use super::args::{
    FlowListArgs, FlowQuery, NicQuery, OpenflowQuery, OutputFormat, PolicyQuery, PortQuery, ProbeQuery,
    Query, RecordingQuery, RefusalQuery, SaQuery, TunnelQuery,
};

/// A query with what the answer should look like.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// What is asked.
    pub query: Query,
    /// How to print it.
    pub output: OutputFormat,
    /// Widest table, in columns; none for a program or a pipe.
    pub width: Option<u16>,
}

/// The server's half of the command line.
#[derive(Debug, Parser)]
#[command(
    name = "ovs-offloadd",
    no_binary_name = true,
    disable_help_flag = true,
    disable_help_subcommand = true
)]
struct Request {
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: OutputFormat,
    #[arg(long, global = true)]
    width: Option<u16>,
    #[command(subcommand)]
    query: Query,
}

/// A request that is not a command of ours, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotACommand(pub String);

/// Reads a unixctl request.
///
/// # Errors
/// A sentence as Open vSwitch's daemons say it.
pub fn parse_request(method: &str, params: &[String]) -> Result<Asked, NotACommand> {
    if !methods().iter().any(|(name, _)| name == method) {
        return Err(NotACommand(format!(
            "\"{method}\" is not a valid command (use \"list-commands\" to see a list of valid commands)"
        )));
    }
    let words = method.split('/').map(str::to_owned).chain(params.iter().cloned());
    let refused = |sentence: &str| NotACommand(format!("\"{method}\" command: {sentence}"));
    let request = Request::try_parse_from(words).map_err(|error| {
        let text = error.to_string();
        let sentence = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        refused(sentence)
    })?;
    if matches!(&request.query, Query::Policy(policy) if policy.is_local()) {
        return Err(refused("files are read by ovs-offloadctl itself, without the daemon"));
    }
    Ok(Asked { query: request.query, output: request.output, width: request.width })
}

/// Writes a query as a unixctl request.
pub fn to_request(asked: &Asked) -> (String, Vec<String>) {
    let (method, mut params) = match &asked.query {
        Query::Status => ("status", Vec::new()),
        Query::Flow(FlowQuery::List(list)) => ("flow/list", list_params(list)),
        Query::Flow(FlowQuery::Why { ufid }) => ("flow/why", vec![ufid.to_string()]),
        Query::Port(PortQuery::List(list)) => {
            ("port/list", list.representors.then(|| "--representors".to_owned()).into_iter().collect())
        }
        Query::Nic(NicQuery::List) => ("nic/list", Vec::new()),
        Query::Nic(NicQuery::Show { nic }) => ("nic/show", vec![nic.clone()]),
        Query::Port(PortQuery::Attach(_)) => ("port/attach", Vec::new()),
        Query::Port(PortQuery::Detach(_)) => ("port/detach", Vec::new()),
        Query::Nic(NicQuery::Apply(_)) => ("nic/apply", Vec::new()),
        Query::Refusal(RefusalQuery::List) => ("refusal/list", Vec::new()),
        Query::Openflow(OpenflowQuery::List) => ("openflow/list", Vec::new()),
        Query::Sa(SaQuery::List) => ("sa/list", Vec::new()),
        Query::Sa(SaQuery::Why { spi }) => ("sa/why", vec![spi.to_string()]),
        Query::Tunnel(TunnelQuery::List) => ("tunnel/list", Vec::new()),
        Query::Policy(PolicyQuery::Check { file }) => {
            ("policy/check", file.iter().map(|file| file.display().to_string()).collect())
        }
        Query::Policy(PolicyQuery::Show) => ("policy/show", Vec::new()),
        Query::Policy(PolicyQuery::Test(test)) => {
            let config = test.config.iter().map(|file| format!("--config={}", file.display()));
            ("policy/test", std::iter::once(format!("--flow={}", test.flow)).chain(config).collect())
        }
        Query::Recording(RecordingQuery::Start) => ("recording/start", Vec::new()),
        Query::Recording(RecordingQuery::Read { session, from }) => {
            ("recording/read", vec![session.to_string(), from.to_string()])
        }
        Query::Recording(RecordingQuery::Stop { session }) => ("recording/stop", vec![session.to_string()]),
        Query::Probe(ProbeQuery::Load) => ("probe/load", Vec::new()),
        Query::Reload => ("reload", Vec::new()),
        Query::Drain { off, nic } => {
            let nic = nic.iter().map(|nic| format!("--nic={nic}"));
            ("drain", nic.chain(off.then(|| "--off".to_owned())).collect())
        }
        Query::Version => ("version", Vec::new()),
    };
    if asked.output == OutputFormat::Json {
        params.push("--output=json".to_owned());
    }
    if let Some(width) = asked.width {
        params.push(format!("--width={width}"));
    }
    (method.to_owned(), params)
}

fn list_params(list: &FlowListArgs) -> Vec<String> {
    let word = |value: &dyn ToString| value.to_string();
    let name = |value: clap::builder::PossibleValue| value.get_name().to_owned();
    let options = [
        ("placement", list.placement.and_then(|it| it.to_possible_value()).map(name)),
        ("port", list.port.clone()),
        ("nic", list.nic.map(|nic| word(&nic))),
        ("reason", list.reason.clone()),
        ("match", list.key.clone()),
        ("sort", list.sort.to_possible_value().map(name)),
        ("limit", Some(word(&list.limit))),
    ];
    let mut params: Vec<String> = options
        .into_iter()
        .filter_map(|(option, value)| value.map(|value| format!("--{option}={value}")))
        .collect();
    if list.reverse {
        params.push("--reverse".to_owned());
    }
    params
}

/// Every unixctl method with its usage, sorted by name.
pub fn methods() -> Vec<(String, String)> {
    let command = Request::command();
    let mut found = Vec::new();
    for noun in command.get_subcommands() {
        // What needs no daemon is no method of it.
        let local = [("policy", "check"), ("nic", "apply"), ("port", "attach"), ("port", "detach")];
        let is_asked = |verb: &&clap::Command| !local.contains(&(noun.get_name(), verb.get_name()));
        let mut verbs = noun.get_subcommands().filter(is_asked).peekable();
        if verbs.peek().is_none() {
            found.push((noun.get_name().to_owned(), usage(noun)));
        }
        for verb in verbs {
            found.push((format!("{}/{}", noun.get_name(), verb.get_name()), usage(verb)));
        }
    }
    found.sort();
    found
}

fn usage(command: &clap::Command) -> String {
    let words = command.get_arguments().map(|argument| {
        let value = argument
            .get_value_names()
            .and_then(|names| names.first())
            .map_or_else(|| argument.get_id().to_string().to_uppercase(), ToString::to_string);
        match (argument.get_long(), argument.get_action().takes_values()) {
            (Some(long), true) => format!("[--{long}={value}]"),
            (Some(long), false) => format!("[--{long}]"),
            (None, _) => value,
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::args::{Cli, Verb};
    use super::*;

    fn from_command_line(words: &str) -> Query {
        let words = std::iter::once("ovs-offloadctl").chain(words.split(' '));
        match Cli::try_parse_from(words).unwrap().verb {
            Verb::Asked(query) => query,
            Verb::Local(local) => panic!("{local:?}"),
        }
    }

    #[test]
    fn every_query_survives_its_way_over_the_socket() {
        for words in [
            "status",
            "flow list",
            "flow list --placement hardware --port sn0pf0vf1 --nic 0 --reason cold --match tcp --sort bytes \
             --reverse --limit 7",
            "flow why ufid:a8a8cb2c-1b0d-4b0b-8a7c-8b3e3b1a5a01",
            "flow why a8a8cb2c-1b0d-4b0b-8a7c-8b3e3b1a5a01",
            "port list",
            "port list --representors",
            "nic list",
            "nic show 0",
            "nic show pci/0000:03:00.0",
            "refusal list",
            "openflow list",
            "sa list",
            "sa why 0x0000c0de",
            "sa why 49374",
            "tunnel list",
            "policy show",
            "policy test --flow tcp.dst=443,inport=a",
            "policy test --flow=in_port(2),eth_type(0x0800)",
            "probe load",
            "recording start",
            "recording read 3 17",
            "recording stop 3",
            "reload",
            "drain",
            "drain --off",
            "drain --nic pci/0000:03:00.0",
            "drain --nic 0 --off",
            "version",
        ] {
            let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
            for (output, width) in [(OutputFormat::Table, Some(80)), (OutputFormat::Json, None)] {
                let asked = Asked { query: from_command_line(&words), output, width };
                let (method, params) = to_request(&asked);
                assert_eq!(parse_request(&method, &params), Ok(asked), "{words}");
            }
        }
    }

    #[test]
    fn every_query_is_listed_with_its_usage() {
        let listed = methods();
        let names: Vec<&str> = listed.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "drain",
                "flow/list",
                "flow/why",
                "nic/list",
                "nic/show",
                "openflow/list",
                "policy/show",
                "policy/test",
                "port/list",
                "probe/load",
                "recording/read",
                "recording/start",
                "recording/stop",
                "refusal/list",
                "reload",
                "sa/list",
                "sa/why",
                "status",
                "tunnel/list",
                "version"
            ]
        );
        assert_eq!(listed[0].1, "[--nic=NIC] [--off]");
        assert_eq!(listed[2].1, "UFID");
    }

    #[test]
    fn an_unknown_command_is_refused_as_open_vswitch_does() {
        let NotACommand(sentence) = parse_request("flow/lst", &[]).unwrap_err();
        assert_eq!(
            sentence,
            "\"flow/lst\" is not a valid command (use \"list-commands\" to see a list of valid commands)"
        );
        assert!(parse_request("flow", &[]).is_err());
        assert!(parse_request("policy/check", &[]).is_err(), "files are read by whoever asks");
        assert!(parse_request("policy/test", &["--flow=tcp".into(), "--config=/etc/passwd".into()]).is_err());
        assert!(parse_request("completions", &["bash".into()]).is_err(), "local commands stay local");
    }

    #[test]
    fn wrong_parameters_are_one_sentence() {
        for (method, params) in
            [("flow/why", vec!["zz".to_owned()]), ("status", vec!["x".to_owned()]), ("flow/why", vec![])]
        {
            let NotACommand(sentence) = parse_request(method, &params).unwrap_err();
            assert!(sentence.starts_with(&format!("\"{method}\" command: ")), "{sentence}");
            assert!(!sentence.contains('\n'), "{sentence}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        Request::command().debug_assert();
    }
}
