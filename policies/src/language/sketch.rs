//! A megaflow in a few words, to try a policy on: `tcp.dst=443, ip4.src=10.0.0.0/8, inport=pf0vf0`.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::AddressSets;
use super::constant::{Format, Number, ones};
use super::diagnostic::{Diagnostic, Problem, kind_of, nearest};
use super::fields::{self, Field, Flag, Kind, LOCALITIES, Text};
use super::program::Match;
use super::subject::{Header, Locality, PortName, Subject, Truth};
use super::syntax::{Expression, Relation, Span, Values};
use super::{Constant, SOURCE_BYTES_MAX};
use crate::{Micros, Rate};

/// A port as it was described.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SketchPort {
    /// Its name.
    pub name: Option<String>,
    /// Its iface-id.
    pub iface_id: Option<String>,
}

impl SketchPort {
    fn as_name(&self) -> PortName<'_> {
        PortName { name: self.name.as_deref(), iface_id: self.iface_id.as_deref() }
    }
}

/// A megaflow as somebody described it. What was not said is open, or not known.
#[derive(Clone, Debug, Default)]
pub struct Sketch {
    /// Headers, yes and no, and what is measured; no texts.
    plain: Subject<'static>,
    /// The ingress port.
    pub inport: SketchPort,
    /// The egress ports; `None` when they are not known.
    pub outports: Option<Vec<SketchPort>>,
    /// The kind of tunnel the packets are put into; empty for none, `None` when it is not known.
    pub encap: Option<String>,
    /// The tenant.
    pub tenant: Option<String>,
    /// Its Kubernetes namespace; empty for none.
    pub namespace: Option<String>,
    /// The workload.
    pub workload: Option<String>,
    /// The chassis at the tunnel's other end; empty for none.
    pub chassis: Option<String>,
}

/// What a list of actions comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SketchActions {
    /// Header fields are changed.
    pub rewrites: Option<bool>,
    /// The packets go nowhere.
    pub drops: Option<bool>,
    /// The packets are looked up again.
    pub recirculates: Option<bool>,
}

impl Sketch {
    /// Reads `name=value` after `name=value`, with commas or `&&` between them. Names are the language's; a value is a
    /// number, an address, a block, or a text with or without quotes; a name alone is a yes, `!name` a no. What a field
    /// implies is implied, IPv4 where either would do; packets are untagged, whole, out of no tunnel and not
    /// recirculated unless said otherwise.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, Diagnostic> {
        if text.len() > SOURCE_BYTES_MAX {
            let problem = Problem::TooLarge { what: "bytes", max: SOURCE_BYTES_MAX };
            return Err(Diagnostic::new(problem, Span { start: 0, end: text.len() }));
        }
        let mut reader = Reader { sketch: Self::default(), implied: Vec::new(), open: Vec::new() };
        for (item, span) in items(text) {
            reader.item(item, span)?;
        }
        for (meaning, span) in core::mem::take(&mut reader.implied) {
            reader.imply(&Expression::parse(meaning)?, span)?;
        }
        for (expression, span) in core::mem::take(&mut reader.open) {
            reader.choose(&expression, span)?;
        }
        reader.sketch.complete();
        Ok(reader.sketch)
    }

    /// Sets a header field.
    pub fn set(&mut self, header: Header, value: u128, mask: u128) {
        self.plain.set(header, value, mask);
    }

    /// Sets what the actions come to.
    pub fn set_actions(&mut self, actions: SketchActions) {
        let SketchActions { rewrites, drops, recirculates } = actions;
        (self.plain.rewrites, self.plain.drops, self.plain.recirculates) = (rewrites, drops, recirculates);
    }

    /// The megaflow as conditions see it. The egress ports are put into `outports`.
    pub fn subject<'a>(&'a self, outports: &'a mut Vec<PortName<'a>>) -> Subject<'a> {
        let mut subject: Subject<'a> = self.plain.clone();
        subject.inport = self.inport.as_name();
        subject.encap = self.encap.as_deref();
        subject.tenant = self.tenant.as_deref();
        subject.namespace = self.namespace.as_deref();
        subject.workload = self.workload.as_deref();
        subject.chassis = self.chassis.as_deref();
        if let Some(ports) = &self.outports {
            outports.extend(ports.iter().map(SketchPort::as_name));
            subject.outports = Some(outports);
        }
        subject
    }

    /// What every megaflow of Open vSwitch says, where nothing else was said.
    fn complete(&mut self) {
        let mut fixed = Vec::from([Header::RecircId, Header::Tunnel, Header::VlanTci, Header::InnerVlanTci]);
        if [0x800, 0x86dd].contains(&self.plain.get(Header::EthType).value) {
            fixed.push(Header::IpFrag);
        }
        for header in fixed {
            if self.plain.get(header).mask == 0 {
                self.plain.set_exact(header, 0);
            }
        }
    }
}

/// The parts of a description, without the blanks around them.
fn items(text: &str) -> Vec<(&str, Span)> {
    let mut items = Vec::new();
    let (mut start, mut quoted, mut at) = (0, false, 0);
    let mut push = |start: usize, end: usize| {
        let item = text.get(start..end).unwrap_or("");
        let trimmed = item.trim();
        if !trimmed.is_empty() {
            let start = start + item.len() - item.trim_start().len();
            items.push((trimmed, Span { start, end: start + trimmed.len() }));
        }
    };
    let bytes = text.as_bytes();
    while let Some(byte) = bytes.get(at) {
        let length = match byte {
            b',' if !quoted => 1,
            b'&' if !quoted && bytes.get(at + 1) == Some(&b'&') => 2,
            b'"' => {
                quoted = !quoted;
                0
            }
            _ => 0,
        };
        if length > 0 {
            push(start, at);
            start = at + length;
        }
        at += length.max(1);
    }
    push(start, text.len());
    items
}

struct Reader {
    sketch: Sketch,
    /// What was said implies these, and where that was said.
    implied: Vec<(&'static str, Span)>,
    /// One of several things is implied.
    open: Vec<(Expression, Span)>,
}

impl Reader {
    fn item(&mut self, item: &str, span: Span) -> Result<(), Diagnostic> {
        let (name, value) = match item.split_once('=') {
            Some((name, value)) => (name.trim(), value.strip_prefix('=').unwrap_or(value).trim()),
            None => match item.strip_prefix('!') {
                Some(name) => (name.trim(), "0"),
                None => (item, "1"),
            },
        };
        let Some(field) = fields::find(name) else {
            let problem =
                Problem::UnknownField { name: name.to_string(), nearest: nearest(name, fields::names()) };
            let start = span.start + item.find(name).unwrap_or(0);
            return Err(Diagnostic::new(problem, Span { start, end: start + name.len() }));
        };
        let value = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
        self.field(field, value).map_err(|problem| Diagnostic::new(problem, span))?;
        if !field.needs.is_empty() {
            self.implied.push((field.needs, span));
        }
        if let Kind::Predicate(meaning) = field.kind {
            self.implied.push((meaning, span));
        }
        Ok(())
    }

    fn field(&mut self, field: &'static Field, value: &str) -> Result<(), Problem> {
        let wrong = || Problem::WrongConstant { field: field.name, takes: field.takes(), found: "that" };
        let yes_or_no = match value {
            "1" | "yes" | "true" => Some(true),
            "0" | "no" | "false" => Some(false),
            _ => None,
        };
        match field.kind {
            Kind::Bits { header, low, width, format } => {
                let number = Number::parse(value)?;
                let plain = |format| matches!(format, Format::Decimal | Format::Hexadecimal);
                if number.format != format && !(plain(number.format) && plain(format)) {
                    let found = kind_of(Some(number.format));
                    return Err(Problem::WrongConstant { field: field.name, takes: field.takes(), found });
                }
                if number.value > ones(width) {
                    return Err(Problem::TooWide { field: field.name, bits: width });
                }
                let mask = number.mask.unwrap_or(u128::MAX) & ones(width);
                let before = self.sketch.plain.get(header);
                let value = before.value & !(mask << low) | number.value << low;
                self.sketch.plain.set(header, value, before.mask | mask << low);
            }
            // What it stands for is implied; what its negation would be, nobody knows.
            Kind::Predicate(_) => return if yes_or_no == Some(true) { Ok(()) } else { Err(wrong()) },
            Kind::Flag(flag) => {
                let yes = yes_or_no.ok_or_else(wrong)?;
                let plain = &mut self.sketch.plain;
                match flag {
                    Flag::Rewrites => plain.rewrites = Some(yes),
                    Flag::Drops => plain.drops = Some(yes),
                    Flag::Recirculates => plain.recirculates = Some(yes),
                    Flag::Encrypted => plain.encrypted = Some(yes),
                    // Of what kind the tunnel is, another test may say.
                    Flag::Encap if !yes => self.sketch.encap = Some(String::new()),
                    Flag::Encap => {
                        let kind = self.sketch.encap.take().filter(|kind| !kind.is_empty());
                        self.sketch.encap = Some(kind.unwrap_or_else(|| "any".to_string()));
                    }
                }
            }
            Kind::Text(text) => self.text(field, text, value)?,
            Kind::Age => self.sketch.plain.age = Some(quantity::<Micros>(field, value, "\"10 s\"")?),
            Kind::Rate => match quantity::<Rate>(field, value, "\"2 Mbit/s\"")? {
                Rate::BytesPerSecond(rate) => self.sketch.plain.bytes_per_s = Some(rate),
                Rate::PacketsPerSecond(rate) => self.sketch.plain.packets_per_s = Some(rate),
            },
        }
        Ok(())
    }

    fn text(&mut self, field: &'static Field, text: Text, value: &str) -> Result<(), Problem> {
        let sketch = &mut self.sketch;
        let own = Some(value.to_string());
        match text {
            Text::Inport => sketch.inport.name = own,
            Text::InportIfaceId => sketch.inport.iface_id = own,
            Text::Outport => {
                sketch.outports.get_or_insert_default().push(SketchPort { name: own, iface_id: None });
            }
            Text::OutportIfaceId => {
                let ports = sketch.outports.get_or_insert_default();
                match ports.last_mut().filter(|port| port.iface_id.is_none()) {
                    Some(port) => port.iface_id = own,
                    None => ports.push(SketchPort { name: None, iface_id: own }),
                }
            }
            Text::Encap => sketch.encap = own,
            Text::Tenant => sketch.tenant = own,
            Text::Namespace => sketch.namespace = own,
            Text::Workload => sketch.workload = own,
            Text::Chassis => sketch.chassis = own,
            Text::Locality => {
                let all = [Locality::SameNode, Locality::CrossNode, Locality::External, Locality::Unknown];
                let known = all.into_iter().find(|locality| locality.word() == value);
                sketch.plain.locality = known.ok_or_else(|| Problem::NoSuchWord {
                    field: field.name,
                    words: r#""same-node", "cross-node", "external", "unknown""#,
                    nearest: nearest(value, LOCALITIES.into_iter()),
                })?;
            }
        }
        Ok(())
    }

    /// How far the headers described so far hold to an expression; it has no texts and no address sets.
    fn truth(&self, expression: &Expression) -> Result<Truth, Diagnostic> {
        let compiled = Match::compile(&expression.to_string(), &AddressSets::new())?;
        Ok(compiled.evaluate(&self.sketch.plain))
    }

    /// Makes an expression hold that something implies.
    fn imply(&mut self, expression: &Expression, span: Span) -> Result<(), Diagnostic> {
        match expression {
            Expression::All(operands) => operands.iter().try_for_each(|operand| self.imply(operand, span)),
            Expression::Any(_) => {
                self.open.push((expression.clone(), span));
                Ok(())
            }
            Expression::Test(test) => {
                let Some(field) = fields::find(&test.field) else { return Ok(()) };
                if !field.needs.is_empty() {
                    self.imply(&Expression::parse(field.needs)?, span)?;
                }
                if let (Kind::Predicate(meaning), None) = (field.kind, &test.comparison) {
                    return self.imply(&Expression::parse(meaning)?, span);
                }
                match self.truth(expression)? {
                    Truth::Always => Ok(()),
                    Truth::Never => {
                        Err(Diagnostic::new(Problem::Contradiction(expression.to_string()), span))
                    }
                    Truth::Sometimes => {
                        self.set_bits(field, expression);
                        Ok(())
                    }
                }
            }
            Expression::Constant(_) | Expression::Not(_) => Ok(()),
        }
    }

    fn set_bits(&mut self, field: &Field, expression: &Expression) {
        let (Expression::Test(test), Kind::Bits { header, low, width, .. }) = (expression, field.kind) else {
            return;
        };
        let value = match &test.comparison {
            None => 1,
            Some((Relation::Equal, Values::One(Constant::Number(number, _)))) => number.value,
            Some((Relation::Equal, Values::Set(set))) => match set.first() {
                Some(Constant::Number(number, _)) => number.value,
                _ => return,
            },
            _ => return,
        };
        let (first, last) = test.bits.unwrap_or((0, width - 1));
        let shift = low + first;
        let mask = ones(last.saturating_sub(first) + 1) << shift;
        let before = self.sketch.plain.get(header);
        self.sketch.plain.set(header, before.value & !mask | value << shift, before.mask | mask);
    }

    /// Makes the first of several things hold that can, unless one holds already.
    fn choose(&mut self, expression: &Expression, span: Span) -> Result<(), Diagnostic> {
        let Expression::Any(operands) = expression else { return Ok(()) };
        if self.truth(expression)? == Truth::Always {
            return Ok(());
        }
        for operand in operands {
            if self.truth(operand)? != Truth::Never {
                self.imply(operand, span)?;
                for (expression, span) in core::mem::take(&mut self.open) {
                    self.choose(&expression, span)?;
                }
                return Ok(());
            }
        }
        Err(Diagnostic::new(Problem::Contradiction(expression.to_string()), span))
    }
}

fn quantity<T: core::str::FromStr>(field: &Field, value: &str, example: &'static str) -> Result<T, Problem> {
    let bad = |_| Problem::BadQuantity { field: field.name, found: value.to_string(), example };
    value.parse().map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(sketch: &str, condition: &str) -> Truth {
        let sketch = Sketch::parse(sketch).expect("a description");
        let condition = Match::compile(condition, &AddressSets::new()).expect("a condition");
        condition.evaluate(&sketch.subject(&mut Vec::new()))
    }

    #[test]
    fn what_a_field_implies_is_implied() {
        for (sketch, condition) in [
            (
                "tcp.dst=443",
                "ip4 && tcp.dst == 443 && !ip.is_frag && !vlan.present && !tun && recirc_id == 0",
            ),
            ("tcp.dst=443, ip6.dst=fd00::1", "ip6 && tcp && ip6.dst == fd00::/8"),
            ("ip6, udp", "ip6 && udp"),
            ("icmp", "icmp4"),
            ("icmp && ip6", "icmp6"),
            ("vlan.vid=5", "vlan.present && vlan.vid == 5"),
            ("ct.est, ct.trk", "ct.est && ct.trk"),
            ("tun.id=7,tun.src=192.0.2.1", "tun && tun.id == 7"),
            ("nd_ns", "icmp6.type == 135 && nd"),
            ("arp.op=1", "arp"),
            ("mpls.label=16", "mpls && mpls.label == 16"),
        ] {
            assert_eq!(truth(sketch, condition), Truth::Always, "{sketch}: {condition}");
        }
    }

    #[test]
    fn what_is_not_said_is_open_or_not_known() {
        for condition in
            ["tcp.src == 1", "ip4.dst == 10.0.0.0/8", r#"inport == "a""#, "drops", r#"age > "1 s""#]
        {
            assert_eq!(
                truth("tcp.dst == 443 && ip4.src = 10.0.0.0/8", condition),
                Truth::Sometimes,
                "{condition}"
            );
        }
        assert_eq!(truth("ip4.src=10.0.0.0/8", "ip4.src == 10.1.0.0/16"), Truth::Sometimes);
        assert_eq!(truth("ip4.src=10.0.0.0/8", "ip4.src == 11.0.0.0/8"), Truth::Never);
    }

    #[test]
    fn texts_actions_and_context_are_taken() {
        let sketch = r#"inport=pf0vf0, inport.iface_id="web,1", outport=a, outport=b, outport.iface_id=db, encap.type=geneve,
            rewrites, !drops, locality=cross-node, tenant=gold, namespace=ns, workload=w, chassis=node-2, encrypted=no, age=5 s, rate=2 Mbit/s"#;
        for condition in [
            r#"inport == "pf0vf?" && inport.iface_id == "web*" && outport == "a" && outport.iface_id == "db""#,
            r#"encap && encap.type == "geneve" && rewrites && !drops && !encrypted"#,
            r#"locality == "cross-node" && tenant == "gold" && namespace == "ns" && workload == "w" && chassis == "node*""#,
            r#"age >= "5 s" && rate == "2 Mbit/s""#,
        ] {
            assert_eq!(truth(sketch, condition), Truth::Always, "{condition}");
        }
    }

    #[test]
    fn mistakes_have_their_place() {
        for (sketch, start, words) in [
            ("tcp, tcp.dport=80", 5, "there is no field \"tcp.dport\"; did you mean \"tcp.dst\"?"),
            ("tcp.dst=70000", 0, "tcp.dst has 16 bits, and this value has more"),
            ("ip4.src=fd00::1", 0, "ip4.src takes an IPv4 address, not an IPv6 address"),
            ("ip4.src=10.0.0.1,ip6", 17, "this contradicts the rest: eth.type == 0x86dd does not hold"),
            ("tcp.dst=1 && udp", 13, "this contradicts the rest: ip.proto == 17 does not hold"),
            ("locality=here", 0, "locality is one of"),
            ("age=5", 0, "\"5\" is no age; write for example: \"10 s\""),
            ("!tcp", 0, "tcp takes 1 or 0, not that"),
        ] {
            let error = Sketch::parse(sketch).expect_err(sketch);
            assert!(error.to_string().starts_with(words), "{sketch}: {error}");
            assert_eq!(error.span.start, start, "{sketch}");
        }
    }
}
