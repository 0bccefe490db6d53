//! What keeps a slow reading of everything from undoing what notifications told meanwhile.

use std::collections::BTreeSet;

/// Rows that notifications told of while a reading of the whole table was under way.
///
/// A row in the reading may be older than one that was told after the reading began, never newer than what will still be
/// told: every change is told. So what was told in the meantime stands, and all else is as the reading has it.
#[derive(Debug, Clone)]
pub(super) struct Reading<K> {
    told: Option<BTreeSet<K>>,
}

impl<K> Default for Reading<K> {
    fn default() -> Self {
        Self { told: None }
    }
}

impl<K: Ord + Clone> Reading<K> {
    /// A reading begins, before its request is sent.
    pub(super) fn begin(&mut self) {
        self.told = Some(BTreeSet::new());
    }

    /// A notification told of a row: that it is there, changed, or gone.
    pub(super) fn told(&mut self, key: &K) {
        if let Some(told) = &mut self.told {
            told.insert(key.clone());
        }
    }

    /// The reading is there: the rows of it that stand, and the known ones that are gone.
    pub(super) fn finish<V>(
        &mut self,
        known: impl IntoIterator<Item = K>,
        rows: Vec<(K, V)>,
    ) -> (Vec<(K, V)>, Vec<K>) {
        let told = self.told.take().unwrap_or_default();
        let read: BTreeSet<K> = rows.iter().map(|(key, _)| key.clone()).collect();
        let gone = known.into_iter().filter(|key| !read.contains(key) && !told.contains(key)).collect();
        (rows.into_iter().filter(|(key, _)| !told.contains(key)).collect(), gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A step of a kernel's life, and of ours: a change, hearing of one, or reading a row.
    #[derive(Debug, Clone)]
    enum Step {
        Change(u8, Option<u16>),
        Hear,
        ReadOn,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => (0..6_u8, proptest::option::weighted(0.7, any::<u16>())).prop_map(|(key, value)| Step::Change(key, value)),
            2 => Just(Step::Hear),
            1 => Just(Step::ReadOn),
        ]
    }

    proptest! {
        // The kernel reads rows one after the other, changes go on meanwhile, and notifications are heard late.
        #[test]
        fn after_the_last_notification_all_is_as_in_the_kernel(
            before in vec(any::<Option<u16>>(), 6),
            known in vec(any::<Option<u16>>(), 6),
            steps in vec(step(), 0..60),
        ) {
            let rows = |of: Vec<Option<u16>>| -> BTreeMap<u8, u16> {
                (0..).zip(of).filter_map(|(key, value)| Some((key, value?))).collect()
            };
            let (mut kernel, mut ours) = (rows(before), rows(known));
            let (mut queue, mut cursor, mut read) = (Vec::new(), 0_u8, Vec::new());
            let mut reading = Reading::default();
            reading.begin();
            let hear = |reading: &mut Reading<u8>, ours: &mut BTreeMap<u8, u16>, (key, value): (u8, Option<u16>)| {
                reading.told(&key);
                match value {
                    Some(value) => ours.insert(key, value),
                    None => ours.remove(&key),
                };
            };
            for step in steps {
                match step {
                    Step::Change(key, value) => {
                        match value {
                            Some(value) => kernel.insert(key, value),
                            None => kernel.remove(&key),
                        };
                        queue.push((key, value));
                    }
                    Step::Hear if !queue.is_empty() => hear(&mut reading, &mut ours, queue.remove(0)),
                    Step::Hear => {}
                    Step::ReadOn if cursor < 6 => {
                        read.extend(kernel.get(&cursor).map(|value| (cursor, *value)));
                        cursor += 1;
                    }
                    Step::ReadOn => {}
                }
            }
            while cursor < 6 {
                read.extend(kernel.get(&cursor).map(|value| (cursor, *value)));
                cursor += 1;
            }
            let (stand, gone) = reading.finish(ours.keys().copied().collect::<Vec<_>>(), read);
            for key in gone {
                ours.remove(&key);
            }
            ours.extend(stand);
            for told in queue {
                hear(&mut reading, &mut ours, told);
            }
            prop_assert_eq!(ours, kernel);
        }
    }
}
