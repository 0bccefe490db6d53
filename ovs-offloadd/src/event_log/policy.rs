//! The rules of the policy as they stand in the log.

use std::collections::BTreeMap;

use policies::language::AddressSets;
use policies::rules::{Place, RuleText, Rules};
use policies::tenants::TenantFrom;
use policies::{Micros, Rate, Weight};
use serde::{Deserialize, Serialize};

/// Rules, the place of what no rule matches, and address sets.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PolicyEntry {
    default: String,
    sets: BTreeMap<String, Vec<String>>,
    rules: Vec<RuleEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RuleEntry {
    name: String,
    #[serde(rename = "match")]
    condition: String,
    place: String,
    // In bytes per second where true, in packets else.
    min_rate: Option<(bool, u64)>,
    min_age_us: Option<u64>,
    weight_thousandths: Option<u32>,
    tenant: Option<String>,
    // Absent in logs of versions that did not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant_from: Option<String>,
    share_thousandths: Option<u32>,
    max_entries: Option<u32>,
    installs_per_s: Option<u32>,
}

impl PolicyEntry {
    pub(super) fn of(rules: &Rules) -> Self {
        let sets = rules.sets().iter().map(|(name, numbers)| {
            (name.to_owned(), numbers.iter().map(ToString::to_string).collect::<Vec<String>>())
        });
        Self {
            default: rules.default_place().word().to_owned(),
            sets: sets.collect(),
            rules: rules.texts().iter().map(RuleEntry::of).collect(),
        }
    }

    pub(super) fn rules(self) -> Result<Rules, String> {
        let mut sets = AddressSets::new();
        for (name, addresses) in &self.sets {
            sets.insert(name, addresses.iter().map(String::as_str))
                .map_err(|(_, problem)| format!("address set {name}: {problem:?}"))?;
        }
        let texts: Vec<RuleText> = self.rules.into_iter().map(RuleEntry::text).collect::<Result<_, _>>()?;
        Rules::compile(&texts, place(&self.default)?, &sets)
            .map_err(|errors| errors.iter().map(|error| error.render("log", &texts)).collect())
    }
}

fn tenant_from(word: &str) -> Result<TenantFrom, String> {
    TenantFrom::from_word(word).ok_or_else(|| format!("nothing tells tenants by the name {word}"))
}

fn place(word: &str) -> Result<Place, String> {
    Place::from_word(word).ok_or_else(|| format!("unknown place {word}"))
}

impl RuleEntry {
    fn of(text: &RuleText) -> Self {
        Self {
            name: text.name.clone(),
            condition: text.condition.clone(),
            place: text.place.word().to_owned(),
            min_rate: text.min_rate.map(|rate| match rate {
                Rate::BytesPerSecond(rate) => (true, rate),
                Rate::PacketsPerSecond(rate) => (false, rate),
            }),
            min_age_us: text.min_age.map(|age| age.0),
            weight_thousandths: text.weight.map(Weight::thousandths),
            tenant: text.tenant.clone(),
            tenant_from: text.tenant_from.map(|from| from.word().to_owned()),
            share_thousandths: text.share.map(Weight::thousandths),
            max_entries: text.max_entries,
            installs_per_s: text.installs_per_s,
        }
    }

    fn text(self) -> Result<RuleText, String> {
        Ok(RuleText {
            // The places in the file of then are of no use any more.
            at: (1, 1),
            condition_at: (1, 1),
            place: place(&self.place)?,
            name: self.name,
            condition: self.condition,
            min_rate: self.min_rate.map(|(bytes, rate)| match bytes {
                true => Rate::BytesPerSecond(rate),
                false => Rate::PacketsPerSecond(rate),
            }),
            min_age: self.min_age_us.map(Micros),
            weight: self.weight_thousandths.map(Weight::from_thousandths),
            tenant: self.tenant,
            tenant_from: self.tenant_from.as_deref().map(tenant_from).transpose()?,
            share: self.share_thousandths.map(Weight::from_thousandths),
            max_entries: self.max_entries,
            installs_per_s: self.installs_per_s,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_back_as_they_were_written() {
        let mut sets = AddressSets::new();
        sets.insert("web", ["10.0.0.0/8", "fd00::1", "10.0.0.0/255.0.0.255"]).unwrap();
        let full = RuleText {
            at: (1, 1),
            condition_at: (1, 1),
            name: "gold \"quoted\"".into(),
            condition: "ip4.dst == $web && tcp.dst == 443".into(),
            place: Place::Auto,
            min_rate: Some(Rate::BytesPerSecond(123_456_789)),
            min_age: Some(Micros(12_345)),
            weight: Some(Weight::from_thousandths(1_500)),
            tenant: Some("gold".into()),
            tenant_from: None,
            share: Some(Weight::from_thousandths(2_000)),
            max_entries: Some(7),
            installs_per_s: Some(9),
        };
        let texts = [
            full,
            RuleText {
                at: (1, 1),
                condition_at: (1, 1),
                name: "b".into(),
                condition: "1".into(),
                min_rate: Some(Rate::PacketsPerSecond(7)),
                tenant_from: Some(TenantFrom::Namespace),
                ..RuleText::default()
            },
        ];
        let rules = Rules::compile(&texts, Place::Software, &sets).unwrap();
        let json = serde_json::to_string(&PolicyEntry::of(&rules)).unwrap();
        let read: PolicyEntry = serde_json::from_str(&json).unwrap();
        assert_eq!(read.rules().unwrap(), rules);
    }
}
