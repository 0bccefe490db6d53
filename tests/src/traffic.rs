//! A UDP packet generator and receiver that count exactly: every packet carries its flow and its number in that flow.
//!
//! The receiver tells packets lost, duplicated and reordered apart, and says how many its own socket had to drop, so
//! that a slow guest is not taken for a lossy network.

mod play;

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// First bytes of every packet.
const MAGIC: [u8; 4] = *b"olab";
/// Bytes of magic, flow and number.
const HEADER: usize = 16;
/// Largest payload of one packet on the wire, in bytes: what an Ethernet MTU of 1500 carries.
const PAYLOAD_MAX: usize = 1472;
/// Largest payload that is sent, in fragments then.
const DATAGRAM_MAX: usize = 4000;
/// Most flows that one receiver tells apart.
const FLOWS_MAX: u32 = 4096;
/// Most packets of one flow: bounds the receiver's memory to 2 MiB per flow.
const PACKETS_MAX: u64 = 1 << 24;
/// What the socket buffers hold: seconds of a slow guest's backlog.
const SOCKET_BUFFER: usize = 16 << 20;
/// The longest that a host with little time takes for its next answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);
/// How often the receiver looks whether it is to end, and prints its count.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// Times [`REPORT_EVERY`] without a packet until none is taken to be on its way any more: a host with little time may let one
/// lie in a queue for longer than once.
const QUIET_FOR: u32 = 4;

const USAGE: &str =
    "usage: lab-tests traffic send    --to ADDRESS:PORT [--from-port P] [--flows N] [--count PER_FLOW]
                               [--rate PACKETS_PER_S] [--size PAYLOAD_BYTES]
                               [--until-input-ends]      (at most the count, and no longer than standard input)
       lab-tests traffic receive --bind ADDRESS:PORT     (until its standard input ends)
                               [--answer]                (sends each packet back)
       lab-tests traffic play    --to ADDRESS:PORT --from-port P --trace CSV --sent CSV
                              (what `ovs-offloadctl replay` reads; writes what was sent when)";

/// Runs `send`, `receive` or `play` as the words after `traffic` say.
pub fn main(mut words: impl Iterator<Item = String>) -> ExitCode {
    let verb = words.next().unwrap_or_default();
    let done = match verb.as_str() {
        "send" => Plan::parse(words).and_then(|plan| plan.send().map_err(|error| error.to_string())),
        "receive" => parse_bind(words)
            .and_then(|(bind, answers)| receive(bind, answers).map_err(|error| format!("{bind}: {error}"))),
        "play" => play::main(words),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}

/// What is sent.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    to: SocketAddr,
    /// Source port of flow 0; flow n comes from the n-th port after it. 0: any ports.
    from_port: u16,
    flows: u32,
    /// Packets of each flow.
    count: u64,
    /// Packets per second of all flows together; 0: as fast as it goes.
    rate: u64,
    /// UDP payload in bytes.
    size: usize,
    /// Whether the end of standard input ends it before all is sent.
    until_input_ends: bool,
}

impl Plan {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let mut plan = Self {
            to: nowhere,
            from_port: 0,
            flows: 1,
            count: 1000,
            rate: 1000,
            size: 64,
            until_input_ends: false,
        };
        while let Some(option) = words.next() {
            if option == "--until-input-ends" {
                plan.until_input_ends = true;
                continue;
            }
            let value = words.next().ok_or(USAGE)?;
            match option.as_str() {
                "--to" => plan.to = number(&option, &value)?,
                "--from-port" => plan.from_port = number(&option, &value)?,
                "--flows" => plan.flows = number(&option, &value)?,
                "--count" => plan.count = number(&option, &value)?,
                "--rate" => plan.rate = number(&option, &value)?,
                "--size" => plan.size = number(&option, &value)?,
                _ => return Err(format!("{option} is no option\n{USAGE}")),
            }
        }
        let last_port = u32::from(plan.from_port) + plan.flows;
        match plan {
            Self { to, .. } if to == nowhere => Err(USAGE.to_owned()),
            Self { flows, .. } if flows == 0 || flows > FLOWS_MAX => {
                Err(format!("--flows is 1 to {FLOWS_MAX}"))
            }
            Self { from_port: 1.., .. } if last_port > 65_536 => {
                Err("the flows' ports end above 65535".to_owned())
            }
            Self { count, .. } if count > PACKETS_MAX => Err(format!("--count is at most {PACKETS_MAX}")),
            Self { size, .. } if !(HEADER..=DATAGRAM_MAX).contains(&size) => {
                Err(format!("--size is {HEADER} to {DATAGRAM_MAX}"))
            }
            plan => Ok(plan),
        }
    }

    fn send(&self) -> io::Result<()> {
        let sockets: io::Result<Vec<UdpSocket>> = (0..self.flows).map(|flow| self.socket(flow)).collect();
        let sockets = sockets?;
        let mut packet = vec![0; self.size];
        let ended = if self.until_input_ends { end_of_input() } else { Arc::default() };
        let begin = Instant::now();
        let (mut sent, mut answers, mut reported) = (0_u64, Tally::default(), (begin, 0));
        for sequence in 0..self.count {
            if ended.load(Ordering::Relaxed) {
                break;
            }
            for (flow, socket) in (0_u32..).zip(&sockets) {
                self.pace(begin, sent);
                write_header(&mut packet, flow, sequence);
                send_one(socket, &packet)?;
                sent += 1;
                take_answers(socket, &mut answers);
            }
            if self.until_input_ends && reported.0.elapsed() >= REPORT_EVERY {
                // What was sent since the last report may still be on its way.
                print_sent(sent, reported.1, &answers.counts, begin.elapsed());
                reported = (Instant::now(), sent);
            }
        }
        let elapsed = begin.elapsed();
        take_last_answers(&sockets, sent, &mut answers);
        print_sent(sent, sent, &answers.counts, elapsed);
        Ok(())
    }

    fn socket(&self, flow: u32) -> io::Result<UdpSocket> {
        // The ports fit: `parse` has checked the last one.
        let port = if self.from_port == 0 { 0 } else { self.from_port + flow as u16 };
        let any: IpAddr = match self.to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let address = SocketAddr::from((any, port));
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        // Answers that come while the sender has no time are not lost.
        socket.set_recv_buffer_size(SOCKET_BUFFER)?;
        socket.bind(&address.into())?;
        let socket = UdpSocket::from(socket);
        socket.connect(self.to)?;
        // Answers are taken as they come, and not waited for.
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Waits until it is time for the packet after `sent` others.
    fn pace(&self, begin: Instant, sent: u64) {
        let Some(due_ns) = (u128::from(sent) * 1_000_000_000).checked_div(u128::from(self.rate)) else {
            return;
        };
        let due = Duration::from_nanos(u64::try_from(due_ns).unwrap_or(u64::MAX));
        if let Some(early) = due.checked_sub(begin.elapsed()) {
            thread::sleep(early);
        }
    }
}

fn send_one(socket: &UdpSocket, packet: &[u8]) -> io::Result<()> {
    loop {
        match socket.send(packet) {
            Ok(_) => return Ok(()),
            // An ICMP error of an earlier packet, or a full device queue: neither is this packet's end.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused) => {}
            Err(error) if error.raw_os_error() == Some(105) => thread::yield_now(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::yield_now(),
            Err(error) => return Err(error),
        }
    }
}

/// Takes what has come back to the socket by now.
fn take_answers(socket: &UdpSocket, answers: &mut Tally) {
    // What is longer than this is cut, and an answer all the same.
    let mut packet = [0; HEADER];
    while let Ok(length) = socket.recv(&mut packet) {
        answers.take(&packet[..length]);
    }
}

/// Takes answers to `sent` packets, where there were any, until all are there or none has come for a while.
fn take_last_answers(sockets: &[UdpSocket], sent: u64, answers: &mut Tally) {
    let mut last = Instant::now();
    while (1..sent).contains(&answers.counts.received) && last.elapsed() < ANSWERED_WITHIN {
        let before = answers.counts.received;
        sockets.iter().for_each(|socket| take_answers(socket, answers));
        if answers.counts.received > before {
            last = Instant::now();
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Of `due` packets answers are to be there by now.
fn print_sent(sent: u64, due: u64, answers: &Counts, elapsed: Duration) {
    let Counts { received, missing, .. } = *answers;
    let unanswered = missing.max(due.saturating_sub(received));
    println!("sent={sent} answers={received} unanswered={unanswered} elapsed_us={}", elapsed.as_micros());
}

fn number<T: FromStr>(option: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{option} cannot be `{value}`\n{USAGE}"))
}

/// Where to receive, and whether to answer.
fn parse_bind(mut words: impl Iterator<Item = String>) -> Result<(SocketAddr, bool), String> {
    match (words.next().as_deref(), words.next(), words.next().as_deref()) {
        (Some("--bind"), Some(address), None) => Ok((number("--bind", &address)?, false)),
        (Some("--bind"), Some(address), Some("--answer")) => Ok((number("--bind", &address)?, true)),
        _ => Err(USAGE.to_owned()),
    }
}

fn write_header(packet: &mut [u8], flow: u32, sequence: u64) {
    packet[..4].copy_from_slice(&MAGIC);
    packet[4..8].copy_from_slice(&flow.to_be_bytes());
    packet[8..HEADER].copy_from_slice(&sequence.to_be_bytes());
}

fn read_header(packet: &[u8]) -> Option<(u32, u64)> {
    let (header, _) = packet.split_first_chunk::<HEADER>()?;
    let flow = u32::from_be_bytes(header[4..8].try_into().ok()?);
    let sequence = u64::from_be_bytes(header[8..].try_into().ok()?);
    (header[..4] == MAGIC && flow < FLOWS_MAX && sequence < PACKETS_MAX).then_some((flow, sequence))
}

/// What one flow's packets looked like so far.
#[derive(Debug, Default)]
struct Seen {
    /// One bit per number.
    numbers: Vec<u64>,
    /// The number after the highest seen.
    next: u64,
}

/// The counts of one receiver.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    received: u64,
    duplicated: u64,
    /// Packets that came after one with a higher number of the same flow.
    reordered: u64,
    /// Numbers below the highest seen of their flow that did not come.
    missing: u64,
    /// Packets that are not the generator's.
    foreign: u64,
}

#[derive(Debug, Default)]
struct Tally {
    flows: Vec<Seen>,
    counts: Counts,
}

impl Tally {
    fn take(&mut self, packet: &[u8]) {
        let Some((flow, sequence)) = read_header(packet) else {
            self.counts.foreign += 1;
            return;
        };
        let flow = flow as usize;
        if self.flows.len() <= flow {
            self.flows.resize_with(flow + 1, Seen::default);
        }
        let seen = &mut self.flows[flow];
        let (word, bit) = ((sequence / 64) as usize, 1_u64 << (sequence % 64));
        if seen.numbers.len() <= word {
            seen.numbers.resize(word + 1, 0);
        }
        if seen.numbers[word] & bit != 0 {
            self.counts.duplicated += 1;
            return;
        }
        seen.numbers[word] |= bit;
        self.counts.received += 1;
        if sequence >= seen.next {
            self.counts.missing += sequence - seen.next;
            seen.next = sequence + 1;
        } else {
            self.counts.reordered += 1;
            self.counts.missing -= 1;
        }
    }
}

/// Becomes true when standard input ends.
fn end_of_input() -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&ended);
    thread::spawn(move || {
        // Whatever ends it ends it: an error too.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        end.store(true, Ordering::Relaxed);
    });
    ended
}

fn receive(bind: SocketAddr, answers: bool) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(bind), Type::DGRAM, None)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.bind(&bind.into())?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(REPORT_EVERY))?;
    let ended = end_of_input();
    println!("ready");
    let mut tally = Tally::default();
    let mut packet = [0; DATAGRAM_MAX];
    let mut reported = Instant::now();
    let (mut last, mut silence) = (None::<Instant>, Duration::ZERO);
    let mut quiet = 0;
    loop {
        match socket.recv_from(&mut packet) {
            Ok((length, from)) => {
                quiet = 0;
                let now = Instant::now();
                silence = silence.max(last.replace(now).map_or(Duration::ZERO, |last| now - last));
                tally.take(&packet[..length]);
                if answers {
                    // The sender may be gone: it counts what it misses.
                    let _ = socket.send_to(&packet[..length], from);
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                quiet += 1;
                if quiet >= QUIET_FOR && ended.load(Ordering::Relaxed) {
                    break;
                }
            }
            Err(error) => return Err(error),
        }
        if reported.elapsed() >= REPORT_EVERY {
            reported = Instant::now();
            print_counts(&tally.counts, silence, bind.port());
        }
    }
    print_counts(&tally.counts, silence, bind.port());
    Ok(())
}

/// `silence` is the longest time between one packet and the next.
fn print_counts(counts: &Counts, silence: Duration, port: u16) {
    let Counts { received, duplicated, reordered, missing, foreign } = counts;
    let dropped = socket_drops(&std::fs::read_to_string("/proc/self/net/udp").unwrap_or_default(), port);
    println!(
        "received={received} duplicated={duplicated} reordered={reordered} missing={missing} foreign={foreign} \
         socket_drops={dropped} silence_us={}",
        silence.as_micros()
    );
}

/// The last column of /proc/net/udp for the socket bound to `port`.
fn socket_drops(table: &str, port: u16) -> u64 {
    let wanted = format!(":{port:04X}");
    let row = table
        .lines()
        .find(|line| line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&wanted)));
    row.and_then(|row| row.split_whitespace().last()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(packets: &[(u32, u64)]) -> Counts {
        let mut tally = Tally::default();
        for (flow, sequence) in packets {
            let mut packet = [0; HEADER];
            write_header(&mut packet, *flow, *sequence);
            tally.take(&packet);
        }
        tally.counts
    }

    #[test]
    fn lost_duplicated_and_reordered_packets_are_told_apart() {
        let counts = tally(&[(0, 0), (0, 3), (0, 1), (0, 3), (1, 0)]);
        assert_eq!(counts, Counts { received: 4, duplicated: 1, reordered: 1, missing: 1, foreign: 0 });
    }

    #[test]
    fn a_late_packet_is_no_longer_missing() {
        assert_eq!(tally(&[(0, 1)]).missing, 1);
        assert_eq!(tally(&[(0, 1), (0, 0)]).missing, 0);
    }

    #[test]
    fn a_packet_of_something_else_is_foreign_and_changes_nothing_more() {
        let mut tally = Tally::default();
        tally.take(b"short");
        let mut packet = [0; HEADER];
        write_header(&mut packet, FLOWS_MAX, 0);
        tally.take(&packet);
        assert_eq!(tally.counts, Counts { foreign: 2, ..Counts::default() });
    }

    #[test]
    fn a_plan_that_cannot_be_sent_is_refused() {
        let plan = |text: &str| Plan::parse(text.split_whitespace().map(str::to_owned));
        assert!(plan("--to 10.0.0.1:7000 --flows 400 --from-port 20000").is_ok());
        for wrong in [
            "",
            "--to 10.0.0.1",
            "--to 10.0.0.1:1 --flows 0",
            "--to 10.0.0.1:1 --size 4",
            "--to 1.1.1.1:1 --from-port 65535 --flows 2",
        ] {
            assert!(plan(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_drops_of_the_own_socket_are_found_by_its_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
                     401: 00000000:1B58 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 17 2 0000 42\n";
        assert_eq!(socket_drops(table, 7000), 42);
        assert_eq!(socket_drops(table, 7001), 0);
    }
}
