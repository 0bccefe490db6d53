//! What numbers of names and ports stand for, and megaflows as conditions see them.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::{Flow, Key, Malformed, NameKind, Port, Record};
use crate::language::{Header, PortName, Subject};

/// Names and ports of a recording, as far as it was read.
#[derive(Clone, Debug, Default)]
pub struct Book {
    names: Vec<(NameKind, Box<str>)>,
    ports: Vec<Port>,
}

impl Book {
    /// A book with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a record. Whatever is no name and no port is not looked at.
    ///
    /// # Errors
    /// A port goes by what is no port's name.
    pub fn take(&mut self, record: &Record<'_>) -> Result<(), Malformed> {
        match record {
            Record::Name(kind, text) => self.names.push((*kind, (*text).into())),
            Record::Port(port) => {
                for (number, wanted) in [(port.name, NameKind::Port), (port.iface_id, NameKind::IfaceId)] {
                    let found = number.and_then(|number| self.names.get(number as usize));
                    if found.is_some_and(|(kind, _)| *kind != wanted) {
                        return Err(Malformed("a port goes by a name of something else"));
                    }
                }
                self.ports.push(*port);
            }
            _ => {}
        }
        Ok(())
    }

    fn name(&self, number: Option<u32>) -> Option<&str> {
        self.names.get(number? as usize).map(|(_, text)| &**text)
    }

    fn port(&self, number: u32) -> PortName<'_> {
        let port = self.ports.get(number as usize).copied().unwrap_or_default();
        PortName { name: self.name(port.name), iface_id: self.name(port.iface_id) }
    }

    /// A megaflow as conditions see it; what is measured (age, rates) is the caller's. The egress ports are put into
    /// `outports`.
    pub fn subject<'a>(&'a self, flow: &Flow<'_>, outports: &'a mut Vec<PortName<'a>>) -> Subject<'a> {
        let mut subject = Subject::default();
        if let Some(Key { fields, values, .. }) = flow.key {
            for ((header, mask), value) in fields.iter().zip(values) {
                subject.set(*header, *value, *mask);
            }
        }
        subject.inport = flow.inport.map(|port| self.port(port)).unwrap_or_default();
        subject.encap = self.name(flow.encap);
        subject.tenant = self.name(flow.tenant);
        subject.workload = self.name(flow.workload);
        subject.namespace = self.name(flow.namespace);
        subject.chassis = self.name(flow.chassis);
        subject.rewrites = flow.rewrites;
        subject.drops = flow.drops;
        subject.recirculates = flow.recirculates;
        subject.encrypted = flow.encrypted;
        subject.locality = flow.locality;
        if let Some(ports) = flow.outports {
            outports.extend(ports.iter().map(|port| self.port(*port)));
            subject.outports = Some(outports);
        }
        subject
    }
}

/// A megaflow that is kept for as long as it is there.
#[derive(Clone, Debug)]
pub struct KeptFlow {
    plain: Flow<'static>,
    key: Option<KeptKey>,
    outports: Option<Box<[u32]>>,
}

#[derive(Clone, Debug)]
struct KeptKey {
    form: u32,
    fields: Box<[(Header, u128)]>,
    values: Box<[u128]>,
}

impl KeptFlow {
    /// A copy of a megaflow.
    pub fn new(flow: &Flow<'_>) -> Self {
        Self {
            key: flow.key.map(|Key { form, fields, values }| KeptKey {
                form,
                fields: fields.into(),
                values: values.into(),
            }),
            outports: flow.outports.map(Into::into),
            plain: Flow { key: None, outports: None, ..*flow },
        }
    }

    /// The megaflow.
    pub fn flow(&self) -> Flow<'_> {
        let key =
            self.key.as_ref().map(|key| Key { form: key.form, fields: &key.fields, values: &key.values });
        Flow { key, outports: self.outports.as_deref(), ..self.plain }
    }
}
