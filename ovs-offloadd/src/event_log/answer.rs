//! An answer to an effect, as it stands in the log.

use netlink_wire::Errno;
use offload_engine::dpctl::{FlowText, FlowTextError};
use offload_engine::{Acked, Answer, CommandError, Micros, Refused};
use serde::{Deserialize, Serialize};

use super::entry::ufid;
use super::raw::{Hex, Raws, report};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Trouble {
    Failed(String),
    Lost,
    Unreadable(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AnswerEntry {
    Replaced {
        before: Option<Hex>,
        errno: Option<i32>,
        extack: Option<String>,
        /// Absent in logs of before it was measured; they replay as they did.
        #[serde(default)]
        took_us: Option<u64>,
    },
    Counted,
    FilterDeleted {
        errno: Option<i32>,
        extack: Option<String>,
    },
    Added {
        made: Option<Hex>,
        errno: Option<i32>,
        extack: Option<String>,
        took_us: Option<u64>,
    },
    FlowRead(Result<(String, String, String), Trouble>),
    CommandDone(Result<(), Trouble>),
    Detraced(Result<String, Trouble>),
}

const UNREADABLE: [FlowTextError; 5] = [
    FlowTextError::TooLong,
    FlowTextError::NotOneLine,
    FlowTextError::NoUfid,
    FlowTextError::NoStatistics,
    FlowTextError::NoActions,
];

impl Trouble {
    fn of(error: &CommandError) -> Self {
        match error {
            CommandError::Failed(words) => Self::Failed(words.clone()),
            CommandError::Lost => Self::Lost,
            CommandError::Unreadable(why) => Self::Unreadable(format!("{why:?}")),
        }
    }

    fn error(self) -> Result<CommandError, String> {
        Ok(match self {
            Self::Failed(words) => CommandError::Failed(words),
            Self::Lost => CommandError::Lost,
            Self::Unreadable(name) => {
                let why = UNREADABLE.into_iter().find(|why| format!("{why:?}") == name);
                CommandError::Unreadable(why.ok_or_else(|| format!("unknown reason {name}"))?)
            }
        })
    }
}

impl AnswerEntry {
    pub(super) fn of(answer: &Answer, raws: &mut Raws) -> Self {
        match answer {
            Answer::Replaced { before, result, took } => {
                let before = before.as_ref().map(|_| raws.take());
                let (errno, extack) = match result {
                    Ok(acked) => (None, acked.extack.clone()),
                    Err(refused) => (Some(refused.errno.0), refused.extack.clone()),
                };
                Self::Replaced { before, errno, extack, took_us: took.map(|took| took.0) }
            }
            Answer::Counted => Self::Counted,
            Answer::FilterDeleted(Ok(acked)) => {
                Self::FilterDeleted { errno: None, extack: acked.extack.clone() }
            }
            Answer::FilterDeleted(Err(refused)) => {
                Self::FilterDeleted { errno: Some(refused.errno.0), extack: refused.extack.clone() }
            }
            Answer::Added { made, result, took } => {
                let made = made.as_ref().map(|_| raws.take());
                let (errno, extack) = match result {
                    Ok(acked) => (None, acked.extack.clone()),
                    Err(refused) => (Some(refused.errno.0), refused.extack.clone()),
                };
                Self::Added { made, errno, extack, took_us: took.map(|took| took.0) }
            }
            Answer::FlowRead(Ok(flow)) => {
                Self::FlowRead(Ok((flow.ufid.to_string(), flow.key.clone(), flow.actions.clone())))
            }
            Answer::FlowRead(Err(error)) => Self::FlowRead(Err(Trouble::of(error))),
            Answer::Detraced(result) => Self::Detraced(result.clone().map_err(|error| Trouble::of(&error))),
            Answer::CommandDone(result) => Self::CommandDone(result.as_ref().copied().map_err(Trouble::of)),
        }
    }

    pub(super) fn answer(self) -> Result<Answer, String> {
        Ok(match self {
            Self::Replaced { before, errno, extack, took_us } => Answer::Replaced {
                before: before.map(|raw| report(&raw)).transpose()?,
                result: kernel_said(errno, extack),
                took: took_us.map(Micros),
            },
            Self::Counted => Answer::Counted,
            Self::FilterDeleted { errno, extack } => Answer::FilterDeleted(kernel_said(errno, extack)),
            Self::Added { made, errno, extack, took_us } => Answer::Added {
                made: made.map(|raw| report(&raw)).transpose()?,
                result: kernel_said(errno, extack),
                took: took_us.map(Micros),
            },
            Self::FlowRead(Ok((id, key, actions))) => {
                Answer::FlowRead(Ok(FlowText { ufid: ufid(&id)?, key, actions }))
            }
            Self::FlowRead(Err(trouble)) => Answer::FlowRead(Err(trouble.error()?)),
            Self::Detraced(Ok(text)) => Answer::Detraced(Ok(text)),
            Self::Detraced(Err(trouble)) => Answer::Detraced(Err(trouble.error()?)),
            Self::CommandDone(Ok(())) => Answer::CommandDone(Ok(())),
            Self::CommandDone(Err(trouble)) => Answer::CommandDone(Err(trouble.error()?)),
        })
    }
}

fn kernel_said(errno: Option<i32>, extack: Option<String>) -> Result<Acked, Refused> {
    match errno {
        None => Ok(Acked { extack }),
        Some(errno) => Err(Refused { errno: Errno(errno), extack }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_open_vswitch_said_of_openflow_rules_comes_back_from_the_log() {
        let lost = CommandError::Lost;
        for said in [Ok("br0\n  cookie=0x7, duration=1s, actions=drop\n".to_owned()), Err(lost)] {
            let answer = Answer::Detraced(said);
            let text = serde_json::to_string(&AnswerEntry::of(&answer, &mut Raws::default())).unwrap();
            let read: AnswerEntry = serde_json::from_str(&text).unwrap();
            assert_eq!(read.answer().unwrap(), answer, "{text}");
        }
    }

    #[test]
    fn what_a_replacement_took_is_in_the_log_and_logs_of_before_are_read() {
        let result = Ok(Acked { extack: None });
        for took in [Some(Micros(5_017)), None] {
            let answer = Answer::Replaced { before: None, result: result.clone(), took };
            let entry = AnswerEntry::of(&answer, &mut Raws::default());
            let text = serde_json::to_string(&entry).unwrap();
            let read: AnswerEntry = serde_json::from_str(&text).unwrap();
            assert_eq!(read.answer().unwrap(), answer, "{text}");
        }
        let before = r#"{"replaced":{"before":null,"errno":null,"extack":null}}"#;
        let read: AnswerEntry = serde_json::from_str(before).unwrap();
        assert_eq!(read.answer().unwrap(), Answer::Replaced { before: None, result, took: None });
    }
}
