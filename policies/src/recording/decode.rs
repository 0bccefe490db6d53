//! Records from bytes.

use alloc::vec::Vec;

use super::encode::{
    BY_BOTH, BY_HARDWARE, BY_SOFTWARE, END, EPOCH, FLOW, FLOW_1, FORM, GONE, LOCALITIES, MOVED, NAME, PORT,
    START,
};
use super::headers::{bytes, header};
use super::wire::{Fault, Take, wrong};
use super::{
    Amount, ENTRIES_MAX, Ending, Epoch, FLOWS_MAX, Flow, Form, Home, Key, MOVES_MAX, Malformed, Move,
    NameKind, OUTPORTS_MAX, Port, RECORD_BYTES_MAX, Record, Split, Start,
};
use crate::Micros;
use crate::language::Header;

/// Reads records one by one. It checks each by itself and against the forms before it; what numbers of names, ports and
/// megaflows stand for is [`super::Book`]'s.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    has_start: bool,
    has_end: bool,
    names: u32,
    ports: u32,
    forms: Vec<Form>,
    /// Of the record that was read last.
    values: Vec<u128>,
    outports: Vec<u32>,
    moves: Vec<Move>,
}

impl Decoder {
    /// A decoder at the beginning of a recording.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the record that `input` begins with; returns it with its length. `None`: the record goes on beyond the end
    /// of `input`, or there is none. Nothing of it is kept then.
    ///
    /// # Errors
    /// What is wrong with the record. There is no way to find the next one.
    pub fn read<'a>(&'a mut self, input: &'a [u8]) -> Result<Option<(Record<'a>, usize)>, Malformed> {
        let mut take = Take::new(input);
        match self.record(&mut take) {
            Ok(record) => Ok(Some((record, input.len() - take.left()))),
            Err(Fault::Short) if input.len() < RECORD_BYTES_MAX => Ok(None),
            Err(Fault::Short) => Err(Malformed("a record is too long")),
            Err(Fault::Wrong(malformed)) => Err(malformed),
        }
    }

    fn record<'a>(&'a mut self, take: &mut Take<'a>) -> Result<Record<'a>, Fault> {
        let kind = take.byte()?;
        if self.has_end {
            return wrong("there is more after its end");
        }
        if self.has_start == (kind == START) {
            return wrong("it does not begin with its start, or has two of them");
        }
        match kind {
            START => {
                let start = start(take)?;
                self.has_start = true;
                Ok(Record::Start(start))
            }
            NAME => {
                let (kind, text) = name(take)?;
                self.names = one_more(self.names)?;
                Ok(Record::Name(kind, text))
            }
            PORT => {
                let port = Port {
                    name: known(take, self.names, "name")?,
                    iface_id: known(take, self.names, "name")?,
                };
                self.ports = one_more(self.ports)?;
                Ok(Record::Port(port))
            }
            FORM => {
                let form = form(take)?;
                one_more(self.forms.len() as u32)?;
                self.forms.push(form);
                Ok(Record::Form(self.forms.last().map(Vec::as_slice).unwrap_or_default()))
            }
            FLOW => self.flow(take, 5).map(Record::Flow),
            FLOW_1 => self.flow(take, 3).map(Record::Flow),
            MOVED => {
                moves(take, &mut self.moves)?;
                Ok(Record::Moved(&self.moves))
            }
            GONE => Ok(Record::Gone(flow_number(take)?)),
            EPOCH => epoch(take).map(Record::Epoch),
            END => {
                let code = usize::from(take.byte()?);
                let Some(ending) = Ending::ALL.get(code) else { return wrong("there is no such ending") };
                self.has_end = true;
                Ok(Record::End(*ending))
            }
            _ => wrong("there is no such kind of record"),
        }
    }

    /// A megaflow with so many of its names.
    fn flow<'a>(&'a mut self, take: &mut Take<'a>, told_names: usize) -> Result<Flow<'a>, Fault> {
        let number = flow_number(take)?;
        let appeared_us = take.signed()?;
        let home = match take.byte()? {
            0 => Home::Tc,
            1 => Home::Datapath,
            _ => return wrong("a megaflow lives where there is no place"),
        };
        let nic = match take.reference()?.map(u16::try_from) {
            None => None,
            Some(Ok(nic)) => Some(nic),
            Some(Err(_)) => return wrong("there is no NIC of such a number"),
        };
        let form = known(take, self.forms.len() as u32, "form")?;
        let fields = form.and_then(|form| self.forms.get(form as usize)).map(Vec::as_slice);
        self.values.clear();
        for (header, mask) in fields.unwrap_or_default() {
            self.values.push(take.wide(bytes(*header))? & mask);
        }
        let key = form.zip(fields).map(|(form, fields)| Key { form, fields, values: &self.values });
        let inport = known(take, self.ports, "port")?;
        let outports = take.reference()?;
        if outports.is_some_and(|count| count as usize > OUTPORTS_MAX) {
            return wrong("a megaflow has too many egress ports");
        }
        self.outports.clear();
        for _ in 0..outports.unwrap_or(0) {
            self.outports.push(take.below(self.ports, "there is no port of such a number")?);
        }
        let mut names = [None; 5];
        for name in names.iter_mut().take(told_names) {
            *name = known(take, self.names, "name")?;
        }
        let told = take.byte()?;
        let answer = |shift: u32| match told >> shift & 3 {
            0 => Ok(None),
            1 => Ok(Some(false)),
            2 => Ok(Some(true)),
            _ => wrong("an answer is neither yes nor no"),
        };
        let Some(locality) = LOCALITIES.get(usize::from(take.byte()?)).copied() else {
            return wrong("there is no such locality");
        };
        let [encap, tenant, workload, namespace, chassis] = names;
        Ok(Flow {
            number,
            appeared_us,
            home,
            nic,
            key,
            inport,
            outports: outports.map(|_| self.outports.as_slice()),
            encap,
            tenant,
            workload,
            namespace,
            chassis,
            rewrites: answer(0)?,
            drops: answer(2)?,
            recirculates: answer(4)?,
            encrypted: answer(6)?,
            locality,
        })
    }
}

fn one_more(count: u32) -> Result<u32, Fault> {
    if count < ENTRIES_MAX { Ok(count + 1) } else { wrong("it has too many names, ports or forms") }
}

/// A reference to something that was told before.
fn known(take: &mut Take<'_>, count: u32, what: &'static str) -> Result<Option<u32>, Fault> {
    match take.reference()? {
        Some(number) if number >= count => wrong(match what {
            "name" => "there is no name of such a number",
            "port" => "there is no port of such a number",
            _ => "there is no form of such a number",
        }),
        known => Ok(known),
    }
}

fn flow_number(take: &mut Take<'_>) -> Result<u32, Fault> {
    take.below(FLOWS_MAX, "the number of a megaflow is too great")
}

fn start(take: &mut Take<'_>) -> Result<Start, Fault> {
    let (wall_s, epoch) = (take.number()?, Micros(take.number()?));
    if !(Micros::from_millis(1)..=Micros::from_secs(60)).contains(&epoch) {
        return wrong("its epoch is not one of 1 ms to 60 s");
    }
    let is_anonymised = match take.byte()? {
        0 => false,
        1 => true,
        _ => return wrong("it has flags that are not known"),
    };
    Ok(Start { wall_s, epoch, is_anonymised })
}

fn name<'a>(take: &mut Take<'a>) -> Result<(NameKind, &'a str), Fault> {
    let Some(kind) = NameKind::ALL.get(usize::from(take.byte()?)) else {
        return wrong("there is no such kind of name");
    };
    let length = usize::from(take.byte()?);
    match core::str::from_utf8(take.slice(length)?) {
        Ok(text) => Ok((*kind, text)),
        Err(_) => wrong("a name is not text"),
    }
}

fn form(take: &mut Take<'_>) -> Result<Form, Fault> {
    let count = usize::from(take.byte()?);
    if count > Header::COUNT {
        return wrong("a form has too many fields");
    }
    let mut form: Form = Vec::with_capacity(count);
    for _ in 0..count {
        let Some(field) = header(take.byte()?) else { return wrong("there is no field of such a code") };
        if form.iter().any(|(known, _)| *known == field) {
            return wrong("a form has a field twice");
        }
        let ones = u128::MAX >> (128 - u32::from(field.width()));
        form.push((field, take.wide(bytes(field))? & ones));
    }
    Ok(form)
}

fn moves(take: &mut Take<'_>, moves: &mut Vec<Move>) -> Result<(), Fault> {
    moves.clear();
    let count = take.below(MOVES_MAX as u32 + 1, "a record has too many readings")?;
    let mut next = 0;
    for _ in 0..count {
        let flow = next + u64::from(flow_number(take)?);
        let Some(flow) = u32::try_from(flow).ok().filter(|flow| *flow < FLOWS_MAX) else {
            return wrong("the number of a megaflow is too great");
        };
        next = u64::from(flow) + 1;
        let packets = take.number()?;
        let total = Amount { packets: packets >> 2, bytes: take.number()? };
        let nothing = Amount::default();
        let moved = match packets & 3 {
            BY_SOFTWARE => Split { software: total, hardware: nothing },
            BY_HARDWARE => Split { software: nothing, hardware: total },
            BY_BOTH => {
                let hardware = amount(take)?;
                let rest = |all: u64, part: u64| match all.checked_sub(part) {
                    Some(rest) => Ok(rest),
                    None => wrong("a part is more than the whole"),
                };
                let packets = rest(total.packets, hardware.packets)?;
                Split { software: Amount { packets, bytes: rest(total.bytes, hardware.bytes)? }, hardware }
            }
            _ => return wrong("nobody forwarded a reading"),
        };
        moves.push(Move { flow, moved });
    }
    Ok(())
}

fn amount(take: &mut Take<'_>) -> Result<Amount, Fault> {
    Ok(Amount { packets: take.number()?, bytes: take.number()? })
}

fn epoch(take: &mut Take<'_>) -> Result<Epoch, Fault> {
    const LONGEST: Micros = Micros::from_secs(366 * 86_400);
    let past = Micros(take.number()?);
    if past > LONGEST {
        return wrong("an epoch is longer than a year");
    }
    let stray = Split { software: amount(take)?, hardware: amount(take)? };
    let (promotions, demotions) = (take.number()?, take.number()?);
    let merged = take.below(u32::MAX, "too many epochs in one")?;
    let left_out = take.below(u32::MAX, "too many megaflows were left out")?;
    Ok(Epoch { past, stray, promotions, demotions, merged, left_out })
}
