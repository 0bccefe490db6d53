//! What probes saw, as it stands in the log.

use offload_engine::{NicId, PortKind, ProbedRefusal};
use serde::{Deserialize, Serialize};
use tc_flower::Part;

use super::port::kind_of_port;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProbedEntry {
    nic: u16,
    at: String,
    toward: Option<String>,
    parts: Vec<u64>,
    what: String,
    why: String,
}

impl ProbedEntry {
    pub(super) fn of(refusal: &ProbedRefusal) -> Self {
        let word = |kind: PortKind| kind.as_str().to_owned();
        Self {
            nic: refusal.nic.0,
            at: word(refusal.at),
            toward: refusal.toward.map(word),
            parts: refusal.parts.iter().map(|part| part.0).collect(),
            what: refusal.what.clone(),
            why: refusal.why.clone(),
        }
    }

    pub(super) fn refusal(self) -> Result<ProbedRefusal, String> {
        Ok(ProbedRefusal {
            nic: NicId(self.nic),
            at: kind_of_port(&self.at)?,
            toward: self.toward.as_deref().map(kind_of_port).transpose()?,
            parts: self.parts.into_iter().map(Part).collect(),
            what: self.what,
            why: self.why,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_probe_saw_is_read_from_the_log_as_it_was_told() {
        let refusal = ProbedRefusal {
            nic: NicId(1),
            at: PortKind::Representor,
            toward: Some(PortKind::Uplink),
            parts: [Part(7), Part(1 << 60)].into_iter().collect(),
            what: "vlan push".into(),
            why: "no".into(),
        };
        let text = serde_json::to_string(&ProbedEntry::of(&refusal)).unwrap();
        let read: ProbedEntry = serde_json::from_str(&text).unwrap();
        assert_eq!(read.refusal(), Ok(refusal), "{text}");
        let other = text.replace("uplink", "sideways");
        assert!(serde_json::from_str::<ProbedEntry>(&other).unwrap().refusal().is_err());
    }
}
