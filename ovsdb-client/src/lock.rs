//! Locks (RFC 7047 §4.1.8 to §4.1.10): which are wanted, and which are ours on this connection.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::LinkError;

#[derive(Debug)]
struct Lock {
    is_held: bool,
    /// Take it from its holder at the next occasion, once: after that it is waited for like any other.
    steal: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Locks(BTreeMap<String, Lock>);

impl Locks {
    /// Wants a lock; the method to send, if any.
    pub(crate) fn want(&mut self, name: &str, steal: bool, is_live: bool) -> Option<&'static str> {
        let is_new = !self.0.contains_key(name);
        let lock = self.0.entry(name.to_owned()).or_insert(Lock { is_held: false, steal });
        if !is_live {
            lock.steal |= steal;
            return None;
        }
        lock.steal = false;
        match (is_new, steal && !lock.is_held) {
            (_, true) => Some("steal"),
            (true, false) => Some("lock"),
            (false, false) => None,
        }
    }

    /// Gives a lock up; whether it was held, `None` when it was not even wanted.
    pub(crate) fn drop_lock(&mut self, name: &str) -> Option<bool> {
        self.0.remove(name).map(|lock| lock.is_held)
    }

    /// A new connection: the locks to ask for, each with the method.
    pub(crate) fn connected(&mut self) -> Vec<(String, &'static str)> {
        let methods = self.0.iter_mut().map(|(name, lock)| {
            let method = if std::mem::take(&mut lock.steal) { "steal" } else { "lock" };
            (name.clone(), method)
        });
        methods.collect()
    }

    /// The connection is gone, and every lock with it; gives those that were ours.
    pub(crate) fn disconnected(&mut self) -> Vec<String> {
        let lost =
            |(name, lock): (&String, &mut Lock)| std::mem::take(&mut lock.is_held).then(|| name.clone());
        self.0.iter_mut().filter_map(lost).collect()
    }

    /// The reply to `lock` or `steal`; true when the lock became ours.
    pub(crate) fn handle_reply(&mut self, name: &str, result: &RawValue) -> Result<bool, LinkError> {
        #[derive(Deserialize)]
        struct Reply {
            locked: bool,
        }
        let reply: Reply = serde_json::from_str(result.get())
            .map_err(|error| LinkError::malformed("reply to lock", error))?;
        // The lock may have been given up meanwhile.
        let Some(lock) = self.0.get_mut(name) else { return Ok(false) };
        let was_held = lock.is_held;
        // A `locked` notification may have overtaken a reply that says no.
        lock.is_held |= reply.locked;
        Ok(lock.is_held && !was_held)
    }

    /// A `locked` or `stolen` notification; the lock's name when that is news.
    pub(crate) fn handle_notification(
        &mut self,
        params: &RawValue,
        held: bool,
    ) -> Result<Option<String>, LinkError> {
        let [name]: [String; 1] = serde_json::from_str(params.get())
            .map_err(|error| LinkError::malformed("lock notification", error))?;
        let Some(lock) = self.0.get_mut(&name) else { return Ok(None) };
        let was_held = std::mem::replace(&mut lock.is_held, held);
        Ok((was_held != held).then_some(name))
    }
}
