//! Plays a trace: the packets of a CSV as `ovs-offloadctl replay` reads it, each flow from a source port of its own.
//!
//! Packets are due at the times of the trace, cut to milliseconds. A sender that is late goes on without a pause until it
//! has caught up: all packets are sent whatever the machine does, and when each was is written to another CSV.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use policies::Micros;
use policies::replay::{CsvReader, TraceTraffic, Traffic as _};

use super::{FLOWS_MAX, HEADER, PAYLOAD_MAX, number, send_one, write_header};

/// What packets are cut to.
const TICK: Micros = Micros::from_millis(1);
/// What a frame on the wire has beside the UDP payload: headers of Ethernet, IPv4 and UDP. A trace's bytes are those of
/// frames, as the NIC counts them.
const FRAME_OVERHEAD: usize = 14 + 20 + 8;
/// Most packets of one trace: bounds the memory.
const PACKETS_MAX: u64 = 10_000_000;

const USAGE: &str = "usage: lab-tests traffic play --to ADDRESS:PORT --from-port P --trace CSV --sent CSV";

/// What is played.
#[derive(Debug, PartialEq, Eq)]
struct Play {
    to: SocketAddrV4,
    /// Source port of flow 0; flow n comes from the n-th port after it.
    from_port: u16,
    trace: PathBuf,
    /// Where it is written what was sent when.
    sent: PathBuf,
}

/// Packets of one flow that are due at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Due {
    at: Duration,
    flow: u32,
    packets: u64,
    /// Bytes of all of them on the wire.
    bytes: u64,
}

/// Runs `play` as the words after it say.
pub(super) fn main(words: impl Iterator<Item = String>) -> Result<(), String> {
    let play = Play::parse(words)?;
    let (due, flows) = read(&play.trace)?;
    let to = play.to;
    let sockets = (0..flows).map(|flow| {
        // The ports fit: `parse` has checked that those of as many flows as there can be do.
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, play.from_port + flow as u16))?;
        socket.connect(to)?;
        Ok(socket)
    });
    let sockets: Vec<UdpSocket> =
        sockets.collect::<io::Result<_>>().map_err(|error| format!("{to}: {error}"))?;
    let sent = send(&due, &sockets).map_err(|error| format!("{to}: {error}"))?;
    std::fs::write(&play.sent, sent.csv).map_err(|error| format!("{}: {error}", play.sent.display()))?;
    println!("sent={} late_us={}", sent.packets, sent.latest.as_micros());
    Ok(())
}

impl Play {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut to, mut from_port, mut trace, mut sent) = (None, None, None, None);
        while let Some(option) = words.next() {
            let value = words.next().ok_or(USAGE)?;
            match option.as_str() {
                "--to" => to = Some(number(&option, &value)?),
                "--from-port" => from_port = Some(number::<u16>(&option, &value)?),
                "--trace" => trace = Some(PathBuf::from(value)),
                "--sent" => sent = Some(PathBuf::from(value)),
                _ => return Err(format!("{option} is no option\n{USAGE}")),
            }
        }
        match (to, from_port, trace, sent) {
            (Some(to), Some(from_port), Some(trace), Some(sent)) => {
                if u32::from(from_port) + FLOWS_MAX > 65_536 {
                    return Err(format!(
                        "the ports of {FLOWS_MAX} flows from {from_port} on end above 65535"
                    ));
                }
                Ok(Self { to, from_port, trace, sent })
            }
            _ => Err(USAGE.to_owned()),
        }
    }
}

/// The packets of a trace in order of time, and its number of flows.
fn read(path: &Path) -> Result<(Vec<Due>, u32), String> {
    let name = path.display();
    let file = std::fs::File::open(path).map_err(|error| format!("{name}: {error}"))?;
    let mut reader = CsvReader::new();
    for line in BufReader::new(file).lines() {
        let line = line.map_err(|error| format!("{name}: {error}"))?;
        reader.take(&line).map_err(|bad| format!("{name}: {bad}"))?;
    }
    let trace = reader.finish().map_err(|bad| format!("{name}: {bad}"))?;
    let flows = trace.flows;
    if flows > FLOWS_MAX || trace.phases.iter().map(|phase| phase.packets).sum::<u64>() > PACKETS_MAX {
        return Err(format!("{name} has more than {FLOWS_MAX} flows, or than {PACKETS_MAX} packets"));
    }
    let mut traffic = TraceTraffic::new(trace, TICK);
    let mut due = Vec::new();
    while let Some(tick) = traffic.tick() {
        for moved in tick.moved {
            let at = Duration::from_micros(tick.begin.0);
            due.push(Due { at, flow: moved.flow.0, packets: moved.packets, bytes: moved.bytes });
        }
    }
    let frames = HEADER + FRAME_OVERHEAD..=PAYLOAD_MAX + FRAME_OVERHEAD;
    let fits = |due: &Due| (0..due.packets).all(|packet| frames.contains(&due.frame(packet)));
    if !due.iter().all(fits) {
        return Err(format!(
            "{name} has packets of other sizes than {} to {} bytes",
            frames.start(),
            frames.end()
        ));
    }
    Ok((due, flows))
}

impl Due {
    /// Bytes on the wire of one of its packets, from 0: as even as they can be.
    fn frame(self, packet: u64) -> usize {
        let share = |packets: u64| self.bytes * packets / self.packets;
        (share(packet + 1) - share(packet)) as usize
    }
}

/// What was sent.
struct Sent {
    packets: u64,
    /// The longest time after which a packet was sent that was due.
    latest: Duration,
    /// A row for the packets of one flow that were due at one time, with the time at which they were sent.
    csv: String,
}

fn send(due: &[Due], sockets: &[UdpSocket]) -> io::Result<Sent> {
    let mut packet = vec![0; PAYLOAD_MAX];
    let mut sequences = vec![0_u64; sockets.len()];
    let mut times = Vec::with_capacity(due.len());
    let begin = Instant::now();
    for due in due {
        if let Some(early) = due.at.checked_sub(begin.elapsed()) {
            thread::sleep(early);
        }
        times.push(begin.elapsed());
        let sequence = &mut sequences[due.flow as usize];
        for number in 0..due.packets {
            write_header(&mut packet, due.flow, *sequence);
            send_one(&sockets[due.flow as usize], &packet[..due.frame(number) - FRAME_OVERHEAD])?;
            *sequence += 1;
        }
    }
    let mut csv = "flow,start_s,end_s,packets,bytes\n".to_owned();
    for (Due { flow, packets, bytes, .. }, time) in due.iter().zip(&times) {
        let at = time.as_secs_f64();
        let _ = writeln!(csv, "{flow},{at:.6},{at:.6},{packets},{bytes}");
    }
    let late = due.iter().zip(&times).map(|(due, time)| time.saturating_sub(due.at));
    Ok(Sent { packets: sequences.iter().sum(), latest: late.max().unwrap_or_default(), csv })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(name: &str, text: &str) -> Result<(Vec<Due>, u32), String> {
        let path = std::env::temp_dir().join(format!("lab-tests-play-{name}-{}.csv", std::process::id()));
        std::fs::write(&path, format!("flow,start_s,end_s,packets,bytes,on_s,off_s\n{text}"))
            .expect("a file");
        let outcome = read(&path);
        std::fs::remove_file(&path).expect("the file is there");
        outcome
    }

    #[test]
    fn packets_are_due_at_the_times_of_the_trace_and_their_bytes_are_all_there() {
        let (due, flows) = read_text("even", "a,0,1,4,4001,,\nb,0.5,0.5,1,100,,\n").expect("a trace");
        assert_eq!(flows, 2);
        let times: Vec<u128> = due.iter().map(|due| due.at.as_millis()).collect();
        assert_eq!(times, [0, 250, 500, 500, 750]);
        assert_eq!(due.iter().map(|due| due.bytes).sum::<u64>(), 4_101);
        let two = Due { at: Duration::ZERO, flow: 0, packets: 2, bytes: 201 };
        assert_eq!((two.frame(0), two.frame(1)), (100, 101));
    }

    #[test]
    fn packets_that_no_frame_can_hold_are_refused() {
        assert!(read_text("large", "a,0,1,4,10000,,\n").expect_err("too large").contains("58 to 1514 bytes"));
        assert!(read_text("small", "a,0,1,4,40,,\n").is_err());
    }

    #[test]
    fn what_is_sent_is_written_with_its_times_and_can_be_replayed() {
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.connect(receiver.local_addr().expect("bound")).expect("connected");
        let due = |at, packets| Due { at: Duration::from_millis(at), flow: 0, packets, bytes: packets * 100 };
        let sent = send(&[due(0, 2), due(20, 1)], &[socket]).expect("sent");
        assert_eq!(sent.packets, 3);
        let mut reader = CsvReader::new();
        sent.csv.lines().for_each(|line| reader.take(line).expect("a row"));
        let trace = reader.finish().expect("a header");
        assert!(trace.phases[1].start >= Micros::from_millis(20));
        let mut packet = [0; 2048];
        let sizes = [0; 3].map(|_| receiver.recv(&mut packet).expect("a packet"));
        assert_eq!(sizes, [58; 3]);
    }
}
