//! The control socket's side of the daemon: commands in, answers from the loop out.

use std::fmt::Write as _;

use tokio::sync::{mpsc, oneshot};

use crate::config::LogLevel;
use crate::ctl::{Asked, NotACommand, OutputFormat, methods, parse_request};
use crate::io::unixctl::{Commands, Printed};
use crate::metrics::Scrape;

/// Questions that wait for the loop at most.
const WAITING_MAX: usize = 64;

/// What is asked of the loop.
#[derive(Debug)]
pub(crate) enum Ask {
    /// A command of ovs-offloadctl.
    Query(Asked, oneshot::Sender<Result<String, String>>),
    /// A scrape.
    Metrics(oneshot::Sender<String>),
    /// Log from this level on.
    Level(LogLevel, oneshot::Sender<Result<String, String>>),
    /// End.
    Exit(oneshot::Sender<Result<String, String>>),
}

/// Hands commands and scrapes to the loop.
#[derive(Debug)]
pub(crate) struct Control {
    asks: mpsc::Sender<Ask>,
}

impl Control {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, asked) = mpsc::channel(WAITING_MAX);
        (Self { asks }, asked)
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).await.ok()?;
        answer.await.ok()
    }
}

/// Commands that every daemon of Open vSwitch has, and what they take.
const BUILT_IN: &[(&str, &str)] =
    &[("exit", ""), ("list-commands", ""), ("set-options", "[--format text|json]"), ("vlog/set", "LEVEL")];

impl Commands for Control {
    async fn run(&self, method: String, params: Vec<String>, json: bool) -> Result<Printed, String> {
        const ENDING: &str = "ovs-offloadd is about to end";
        let ending = || ENDING.to_owned();
        let at_most = |most: usize| {
            let plural = if most == 1 { "" } else { "s" };
            (params.len() > most)
                .then(|| format!("\"{method}\" command takes at most {most} argument{plural}"))
                .map_or(Ok(()), Err)
        };
        match method.as_str() {
            "list-commands" => at_most(0).map(|()| Printed::Text(list_commands())),
            "exit" => {
                at_most(0)?;
                self.ask(Ask::Exit).await.ok_or_else(ending)?.map(Printed::Text)
            }
            "vlog/set" => {
                at_most(1)?;
                let words = LogLevel::WORDS.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
                let level = params
                    .first()
                    .and_then(|word| LogLevel::from_word(word))
                    .ok_or_else(|| format!("\"vlog/set\" command takes one of {words}"))?;
                self.ask(|reply| Ask::Level(level, reply)).await.ok_or_else(ending)?.map(Printed::Text)
            }
            _ => {
                let mut asked = parse_request(&method, &params).map_err(|NotACommand(sentence)| sentence)?;
                if json {
                    asked.output = OutputFormat::Json;
                }
                let document = json && asked.output == OutputFormat::Json;
                let text = self.ask(|reply| Ask::Query(asked, reply)).await.ok_or_else(ending)??;
                Ok(match serde_json::from_str(&text) {
                    Ok(value) if document => Printed::Document(value),
                    _ => Printed::Text(text),
                })
            }
        }
    }
}

impl Scrape for Control {
    async fn scrape(&self) -> Option<String> {
        self.ask(Ask::Metrics).await
    }
}

fn list_commands() -> String {
    let ours = methods();
    let mut all: Vec<(&str, &str)> =
        ours.iter().map(|(name, usage)| (name.as_str(), usage.as_str())).collect();
    all.extend(BUILT_IN);
    all.sort_unstable();
    let mut out = String::from("The available commands are:\n");
    for (name, usage) in all {
        let _ = writeln!(out, "{}", format!("  {name:<23} {usage}").trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loop that echoes what it is asked.
    fn echo() -> Control {
        let (control, mut asked) = Control::new();
        tokio::spawn(async move {
            while let Some(ask) = asked.recv().await {
                match ask {
                    Ask::Query(asked, reply) => {
                        let text = match asked.output {
                            OutputFormat::Json => "{\"a\":1}".to_owned(),
                            OutputFormat::Table => format!("{:?}", asked.query),
                        };
                        let _ = reply.send(Ok(text));
                    }
                    Ask::Metrics(reply) => drop(reply.send("m 1\n".into())),
                    Ask::Level(level, reply) => drop(reply.send(Ok(format!("{level:?}")))),
                    Ask::Exit(reply) => drop(reply.send(Ok(String::new()))),
                }
            }
        });
        control
    }

    async fn text(control: &Control, method: &str, params: &[&str]) -> Result<String, String> {
        let params = params.iter().map(|param| (*param).to_owned()).collect();
        match control.run(method.to_owned(), params, false).await? {
            Printed::Text(text) => Ok(text),
            Printed::Document(document) => panic!("{document}"),
        }
    }

    #[tokio::test]
    async fn every_command_is_listed() {
        let listed = text(&echo(), "list-commands", &[]).await.unwrap();
        for name in ["exit", "flow/list", "flow/why", "list-commands", "status", "vlog/set", "version"] {
            assert!(
                listed.lines().any(|line| line.split_whitespace().next() == Some(name)),
                "{name}: {listed}"
            );
        }
    }

    #[tokio::test]
    async fn json_is_a_document_only_for_a_connection_that_asked_for_it() {
        let control = echo();
        assert_eq!(text(&control, "status", &["--output=json"]).await, Ok("{\"a\":1}".into()));
        let printed = control.run("status".into(), vec![], true).await;
        assert_eq!(printed, Ok(Printed::Document(serde_json::json!({"a": 1}))));
    }

    #[tokio::test]
    async fn wrong_words_are_refused_in_a_sentence() {
        let control = echo();
        assert_eq!(text(&control, "vlog/set", &["debug"]).await, Ok("Debug".into()));
        for (method, params) in [("vlog/set", vec!["loud"]), ("vlog/set", vec![]), ("exit", vec!["now"])] {
            let sentence = text(&control, method, &params).await.unwrap_err();
            assert!(sentence.starts_with(&format!("\"{method}\" command takes")), "{sentence}");
        }
    }

    #[tokio::test]
    async fn a_loop_that_ends_answers_so() {
        let (control, asked) = Control::new();
        drop(asked);
        assert_eq!(text(&control, "status", &[]).await, Err("ovs-offloadd is about to end".into()));
        assert_eq!(control.scrape().await, None);
    }
}
