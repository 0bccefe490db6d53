//! Writes what rules can be asked about: names, ports and forms once, and megaflows by their numbers.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::encode::{cut, write};
use super::{ENTRIES_MAX, Flow, Form, Home, Key, NameKind, OUTPORTS_MAX, Port, Record};
use crate::language::{Header, PortName, Subject};

/// What is told of a megaflow beside its key and its actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// Its number.
    pub number: u32,
    /// When it was first seen, in microseconds after the epoch's beginning.
    pub appeared_us: i64,
    /// Where it lives.
    pub home: Home,
    /// The NIC it could be placed in.
    pub nic: Option<u16>,
}

/// Numbers names, ports and forms, and writes each before it is first referred to.
#[derive(Clone, Debug, Default)]
pub struct Scribe {
    names: [BTreeMap<Box<str>, u32>; NameKind::ALL.len()],
    names_count: u32,
    ports: BTreeMap<Port, u32>,
    forms: BTreeMap<Form, u32>,
    /// Of the megaflow that was written last.
    form: Form,
    values: Vec<u128>,
    outports: Vec<u32>,
}

impl Scribe {
    /// A scribe that has written nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a megaflow as conditions see it, and before it what it refers to.
    pub fn flow(&mut self, out: &mut Vec<u8>, about: &About, subject: &Subject<'_>) {
        let inport = self.port(out, subject.inport);
        let mut outports = core::mem::take(&mut self.outports);
        outports.clear();
        let told = subject.outports.filter(|ports| ports.len() <= OUTPORTS_MAX);
        for port in told.unwrap_or_default() {
            // A port of which nothing is known is a port all the same.
            outports.extend(self.port_or_blank(out, *port));
        }
        let is_told = told.is_some_and(|ports| ports.len() == outports.len());
        let form = self.form(out, subject);
        let flow = Flow {
            number: about.number,
            appeared_us: about.appeared_us,
            home: about.home,
            nic: about.nic,
            key: None,
            inport,
            outports: is_told.then_some(outports.as_slice()),
            encap: self.name(out, NameKind::Tunnel, subject.encap),
            tenant: self.name(out, NameKind::Tenant, subject.tenant),
            workload: self.name(out, NameKind::Workload, subject.workload),
            namespace: self.name(out, NameKind::Namespace, subject.namespace),
            chassis: self.name(out, NameKind::Chassis, subject.chassis),
            rewrites: subject.rewrites,
            drops: subject.drops,
            recirculates: subject.recirculates,
            encrypted: subject.encrypted,
            locality: subject.locality,
        };
        let key = form.map(|form| Key { form, fields: &self.form, values: &self.values });
        write(out, &Record::Flow(Flow { key, ..flow }));
        self.outports = outports;
    }

    /// The number of the megaflow's form; its values are in `self.values`.
    fn form(&mut self, out: &mut Vec<u8>, subject: &Subject<'_>) -> Option<u32> {
        self.form.clear();
        self.values.clear();
        for header in Header::all() {
            let bits = subject.get(header);
            if bits.mask != 0 {
                self.form.push((header, bits.mask));
                self.values.push(bits.value);
            }
        }
        if self.form.is_empty() {
            return None;
        }
        if let Some(known) = self.forms.get(&self.form) {
            return Some(*known);
        }
        let number = self.forms.len() as u32;
        if number >= ENTRIES_MAX {
            return None;
        }
        write(out, &Record::Form(&self.form));
        self.forms.insert(self.form.clone(), number);
        Some(number)
    }

    fn port(&mut self, out: &mut Vec<u8>, port: PortName<'_>) -> Option<u32> {
        if port == PortName::default() {
            return None;
        }
        self.port_or_blank(out, port)
    }

    fn port_or_blank(&mut self, out: &mut Vec<u8>, port: PortName<'_>) -> Option<u32> {
        let name = self.name(out, NameKind::Port, port.name);
        let iface_id = self.name(out, NameKind::IfaceId, port.iface_id);
        let port = Port { name, iface_id };
        if let Some(known) = self.ports.get(&port) {
            return Some(*known);
        }
        let number = self.ports.len() as u32;
        if number >= ENTRIES_MAX {
            return None;
        }
        write(out, &Record::Port(port));
        self.ports.insert(port, number);
        Some(number)
    }

    fn name(&mut self, out: &mut Vec<u8>, kind: NameKind, text: Option<&str>) -> Option<u32> {
        let text = cut(text?);
        let names = &mut self.names[kind as usize];
        if let Some(known) = names.get(text) {
            return Some(*known);
        }
        let number = self.names_count;
        if number >= ENTRIES_MAX {
            return None;
        }
        write(out, &Record::Name(kind, text));
        names.insert(text.into(), number);
        self.names_count += 1;
        Some(number)
    }
}
