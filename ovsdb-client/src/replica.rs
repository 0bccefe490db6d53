//! A copy of the monitored rows, and what changed between two of its states.

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;
use uuid::Uuid;

use crate::row::{Change, Layout, Row, RowError, TableRow};
use crate::update::{RowUpdate, TableUpdate};

type Rows = BTreeMap<Uuid, Arc<Row>>;
/// The row before and the row now.
type BeforeAndNow = (Option<Arc<Row>>, Option<Arc<Row>>);

/// Rows by table and UUID.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tables(BTreeMap<Arc<str>, Rows>);

impl Tables {
    /// The rows of a table, by UUID.
    pub fn table(&self, table: &str) -> impl Iterator<Item = (Uuid, &Arc<Row>)> {
        self.0.get(table).into_iter().flatten().map(|(uuid, row)| (*uuid, row))
    }

    /// One row.
    pub fn get(&self, table: &str, uuid: Uuid) -> Option<&Arc<Row>> {
        self.0.get(table)?.get(&uuid)
    }

    /// The rows of a table as typed rows.
    pub fn rows<T: TableRow>(&self) -> impl Iterator<Item = Result<(Uuid, T), RowError>> {
        self.table(T::TABLE).map(|(uuid, row)| Ok((uuid, T::from_row(row)?)))
    }

    /// One row as a typed row.
    ///
    /// # Errors
    ///
    /// [`RowError`] when it does not fit `T`.
    pub fn row<T: TableRow>(&self, uuid: Uuid) -> Result<Option<T>, RowError> {
        self.get(T::TABLE, uuid).map(|row| T::from_row(row)).transpose()
    }

    /// Number of rows in all tables.
    pub fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Carries out a change.
    pub fn apply(&mut self, change: &Change) {
        match &change.new {
            Some(row) => {
                let rows = self.0.entry(Arc::clone(&change.table)).or_default();
                rows.insert(change.uuid, Arc::clone(row));
            }
            None => {
                if let Some(rows) = self.0.get_mut(&change.table) {
                    rows.remove(&change.uuid);
                    if rows.is_empty() {
                        self.0.remove(&change.table);
                    }
                }
            }
        }
    }
}

/// The server changed a row that we do not have: the replica has to be filled afresh.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("server modified row {uuid} of table {table}, which it never sent")]
pub struct Inconsistent {
    /// The table.
    pub table: String,
    /// The row.
    pub uuid: Uuid,
}

/// The client's copy of the rows that the server has sent.
#[derive(Debug, Default)]
pub struct Replica {
    tables: Tables,
}

impl Replica {
    /// The rows.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Carries out updates and gives the changes that are really changes. `layouts` are those the updates were read with.
    ///
    /// # Errors
    ///
    /// [`Inconsistent`]; the replica is as it was.
    pub fn update(
        &mut self,
        updates: Vec<TableUpdate>,
        layouts: &[Arc<Layout>],
    ) -> Result<Vec<Change>, Inconsistent> {
        let mut changes = Vec::new();
        for TableUpdate { table, rows } in updates {
            let layout = &layouts[table];
            changes.reserve(rows.len());
            for (uuid, update) in rows {
                let old = self.tables.get(&layout.table, uuid);
                let new = match update {
                    RowUpdate::Full(values) => Some(Row::new(Arc::clone(layout), values)),
                    RowUpdate::Delete => None,
                    RowUpdate::Difference(columns) => match old {
                        Some(old) => Some(old.with_differences(&columns)),
                        None => return Err(Inconsistent { table: layout.table.to_string(), uuid }),
                    },
                };
                if old.map(|row| &**row) != new.as_ref() {
                    let (table, old) = (Arc::clone(&layout.table), old.cloned());
                    changes.push(Change { table, uuid, old, new: new.map(Arc::new) });
                }
            }
        }
        for change in &changes {
            self.tables.apply(change);
        }
        Ok(changes)
    }

    /// Replaces everything by a fresh copy, and gives what differs. Rows that are the same stay the same `Arc`.
    ///
    /// # Errors
    ///
    /// [`Inconsistent`] when the fresh copy holds a difference; the replica is as it was.
    pub fn replace(
        &mut self,
        updates: Vec<TableUpdate>,
        layouts: &[Arc<Layout>],
    ) -> Result<Vec<Change>, Inconsistent> {
        let mut fresh: BTreeMap<Arc<str>, Rows> = BTreeMap::new();
        for TableUpdate { table, rows } in updates {
            let layout = &layouts[table];
            let copy = fresh.entry(Arc::clone(&layout.table)).or_default();
            for (uuid, update) in rows {
                match update {
                    RowUpdate::Full(values) => {
                        copy.insert(uuid, Arc::new(Row::new(Arc::clone(layout), values)));
                    }
                    RowUpdate::Delete => {}
                    RowUpdate::Difference(_) => {
                        return Err(Inconsistent { table: layout.table.to_string(), uuid });
                    }
                }
            }
        }
        let mut changes = Vec::new();
        for (table, rows) in &self.tables.0 {
            let copy = fresh.get(table);
            for (uuid, row) in
                rows.iter().filter(|(uuid, _)| !copy.is_some_and(|copy| copy.contains_key(uuid)))
            {
                let (table, old) = (Arc::clone(table), Some(Arc::clone(row)));
                changes.push(Change { table, uuid: *uuid, old, new: None });
            }
        }
        for (table, rows) in fresh {
            for (uuid, new) in rows {
                let old = self.tables.get(&table, uuid);
                if old != Some(&new) {
                    let (table, old) = (Arc::clone(&table), old.cloned());
                    changes.push(Change { table, uuid, old, new: Some(new) });
                }
            }
        }
        for change in &changes {
            self.tables.apply(change);
        }
        Ok(changes)
    }
}

/// Changes that wait for a consumer. Changes of the same row become one, so that the backlog of a consumer that never
/// comes holds no more than the difference between what it has seen and what is.
#[derive(Debug, Default)]
pub struct Backlog(BTreeMap<(Arc<str>, Uuid), BeforeAndNow>);

impl Backlog {
    /// Adds a change.
    pub fn push(&mut self, change: Change) {
        use std::collections::btree_map::Entry;
        match self.0.entry((change.table, change.uuid)) {
            Entry::Vacant(entry) => {
                entry.insert((change.old, change.new));
            }
            Entry::Occupied(mut entry) => {
                entry.get_mut().1 = change.new;
                if entry.get().0 == entry.get().1 {
                    entry.remove();
                }
            }
        }
    }

    /// Number of rows that changed.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes everything that waits, ordered by table and UUID.
    pub fn take(&mut self) -> Vec<Change> {
        let rows = std::mem::take(&mut self.0);
        rows.into_iter().map(|((table, uuid), (old, new))| Change { table, uuid, old, new }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atom::{Atom, AtomKind};
    use crate::datum::Datum;
    use crate::schema::ColumnType;
    use proptest::prelude::*;

    fn layouts() -> Vec<Arc<Layout>> {
        let columns = [("n".to_owned(), ColumnType::scalar(AtomKind::Integer))];
        vec![Arc::new(Layout::new("T", columns))]
    }

    fn full(value: i64) -> RowUpdate {
        RowUpdate::Full(Box::new([Datum::atom(Atom::Integer(value))]))
    }

    fn update(rows: &[(u128, RowUpdate)]) -> Vec<TableUpdate> {
        let rows = rows.iter().map(|(uuid, update)| (Uuid::from_u128(*uuid), update.clone())).collect();
        vec![TableUpdate { table: 0, rows }]
    }

    #[test]
    fn a_fresh_copy_yields_only_what_really_changed() {
        let layouts = layouts();
        let mut replica = Replica::default();
        replica.replace(update(&[(1, full(1)), (2, full(2)), (3, full(3))]), &layouts).unwrap();
        let changes = replica.replace(update(&[(2, full(2)), (3, full(9)), (4, full(4))]), &layouts).unwrap();
        let seen: Vec<_> = changes
            .iter()
            .map(|change| (change.uuid.as_u128(), change.old.is_some(), change.new.is_some()))
            .collect();
        assert_eq!(seen, [(1, true, false), (3, true, true), (4, false, true)]);
        assert_eq!(replica.tables().len(), 3);
    }

    #[test]
    fn an_update_of_an_unknown_row_leaves_the_replica_as_it_was() {
        let layouts = layouts();
        let mut replica = Replica::default();
        replica.update(update(&[(1, full(1))]), &layouts).unwrap();
        let before = replica.tables().clone();
        let bad = update(&[(1, full(5)), (2, RowUpdate::Difference(Vec::new()))]);
        assert_eq!(replica.update(bad, &layouts).unwrap_err().uuid, Uuid::from_u128(2));
        assert_eq!(replica.tables(), &before);
    }

    #[test]
    fn updates_that_change_nothing_are_not_changes() {
        let layouts = layouts();
        let mut replica = Replica::default();
        replica.update(update(&[(1, full(1))]), &layouts).unwrap();
        let same = update(&[(1, full(1)), (7, RowUpdate::Delete)]);
        assert_eq!(replica.update(same, &layouts).unwrap(), []);
    }

    proptest! {
        #[test]
        fn a_slow_consumer_ends_where_a_fast_one_does(
            steps in prop::collection::vec((0u128..4, proptest::option::of(0i64..3), any::<bool>()), 0..60)
        ) {
            let layouts = layouts();
            let (mut replica, mut backlog, mut seen) = (Replica::default(), Backlog::default(), Tables::default());
            for (uuid, value, consume) in steps {
                let row = value.map_or(RowUpdate::Delete, full);
                for change in replica.update(update(&[(uuid, row)]), &layouts).unwrap() {
                    backlog.push(change);
                }
                prop_assert!(backlog.len() <= 4);
                if consume {
                    for change in backlog.take() {
                        prop_assert_ne!(&change.old, &change.new);
                        prop_assert_eq!(seen.get("T", change.uuid), change.old.as_ref());
                        seen.apply(&change);
                    }
                    prop_assert_eq!(&seen, replica.tables());
                }
            }
        }
    }
}
